"""From a finished characterisation, limits and a few pictures to a plan: the planner's whole way.

`options` reads what was measured, `planner` decides, `latency` measures what is limited, and the
pictures score the channels of what was chosen.

    limits = Limits(psnr_db=22.0, local_mmacs=160.0)
    planned = plan_topology(Path("runs/public"), "folder:pictures", limits)
    print(planned.explanation)
    write_plan(Path("plan.json"), planned.plan)
"""

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.backbone.topology import DIRECT, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights, check_source
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.characterisation.reopening import matching_weights
from privynet_jax.errors import UserError
from privynet_jax.images.sample import Sample, load_sample
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.mechanisms.words import planned_mechanism
from privynet_jax.planning import planner
from privynet_jax.planning.draw_meter import released_unit
from privynet_jax.planning.drawing import Drawing, PlanSettings
from privynet_jax.planning.explanation import explained, refusal
from privynet_jax.planning.lengths import TRAINING
from privynet_jax.planning.options import Option, options_of
from privynet_jax.planning.plan import EPSILON, Limits, Plan, Promise
from privynet_jax.planning.planner import Decision
from privynet_jax.planning.promise import promise_of, usual_margins
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.secret_draw import Selection

# Settings of characterisations whose numbers are compared.
_ALIKE = (
    *("data_fingerprint", "weights_fingerprint", "backbone", "image_size", "seed", "mode"),
    *("cloud", "cloud_width", "attackers", "attacker", "attacker_width", "attacker_blocks"),
    "compute_dtype",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """A plan, and what explains it.

    Attributes:
        plan: with a secret seed of its own; see `plan.write_plan`.
        explanation: of the decision, several lines that tell no secret.
        cells: results that the plan's expectations are of.
        available: how many pictures the sample was drawn from.
    """

    plan: Plan
    explanation: str
    cells: tuple[CellResult, ...]
    available: int


class NothingFitsError(UserError):
    """No characterised topology keeps the limits; `explanation` has several lines on why."""

    def __init__(self, message: str, explanation: str) -> None:
        super().__init__(message)
        self.explanation = explanation


class Characterised(NamedTuple):
    """A finished characterisation, its settings, and its cells of one selection."""

    store: ResultStore
    config: Mapping[str, Any]
    cells: list[CellResult]

    @property
    def mechanism(self) -> Mechanism:
        """What its devices do besides splitting."""
        return planned_mechanism(self.config.get("mechanism", NONE))

    def options(self, statistic: str) -> list[Option]:
        """Returns what may be chosen of it; privacy loss by a statistic of `plan.STATISTICS`."""
        size = self.config["image_size"]
        return [
            _under(option, self.mechanism, size)
            for option in options_of(self.cells, size, statistic)
        ]


def plan_topology(
    workdir: Path | Sequence[Path],
    sample: str,
    limits: Limits,
    weights: str = "embedded",
    settings: PlanSettings | None = None,
) -> Planned:
    """Returns the plan of the best characterised topology under limits, by balanced accuracy.

    Args:
        workdir: a finished characterisation, or several, each under a mechanism of its own.
        sample: the user's own labelled pictures, `folder:PATH` or a TFDS data set.
        limits: what to keep to.
        weights: where to have the weights from, those of the characterisation; see `load_weights`.
        settings: None is the usual ones.

    Raises:
        NothingFitsError: no topology keeps the limits.
        UserError: the characterisation is not finished or has nothing of the selection, or weights
            or pictures are not there or do not fit, or characterisations do not go together.
    """
    settings = settings or PlanSettings()
    workdirs = [workdir] if isinstance(workdir, Path) else list(workdir)
    grids = _compared(workdirs, limits, settings)
    config = grids[0].config
    check_source(weights, config["backbone"])
    options = [option for grid in grids for option in grid.options(limits.statistic)]
    margins, promise = margins_of(grids, limits, settings)
    if settings.attacked_images:
        options = planner.unmeasured(options)
    hoped_for = planner.choose(options, limits, margins)
    if hoped_for.chosen is None:
        told = explained(hoped_for, config, promise=promise)
        raise NothingFitsError(refusal(hoped_for), told)
    pretrained = matching_weights(weights, config, workdirs[0], settings.cache_dir)
    pictures = load_sample(
        sample,
        data_dir=settings.data_dir,
        image_size=config["image_size"],
        count=settings.sample_images,
        skip_unreadable=settings.skip_unreadable,
        reading=settings.reading,
    )
    stores = {str(grid.mechanism): (grid.store, grid.cells[0].selection) for grid in grids}
    drawing = Drawing(pretrained, pictures, stores, limits, settings)
    decision, latency_on = drawing.decide(options, margins, config)
    option = decision.chosen
    grid = next((g for g in grids if option and str(g.mechanism) == option.mechanism), grids[0])
    explanation = explained(decision, grid.config, latency_on, promise)
    if option is None:
        raise NothingFitsError(refusal(decision), explanation)
    selection = drawing.selection(option)
    known = grid.config, pretrained, pictures, selection, latency_on, promise
    plan = _plan(decision, *known)
    same = [c for c in grid.cells if (c.num_layers, c.depth) == option.shape]
    return Planned(plan, explanation, tuple(same), pictures.available)


def _under(option: Option, mechanism: Mechanism, image_size: int) -> Option:
    shape = option.topology(range(option.depth)).representation_shape(image_size)
    epsilon = mechanism.epsilon(math.prod(shape))
    known = {EPSILON: epsilon} if epsilon < math.inf else {}
    return dataclasses.replace(option, mechanism=str(mechanism), cost={**option.cost, **known})


def _compared(
    workdirs: Sequence[Path], limits: Limits, settings: PlanSettings
) -> list[Characterised]:
    """Returns characterisations among which limits and settings let one choose, or UserError."""
    grids = [characterised_cells(each, settings.selection) for each in workdirs]
    _check_alike(workdirs, grids)
    guarantee = (EPSILON in o.cost for grid in grids for o in grid.options(limits.statistic))
    if limits.epsilon is not None and not any(guarantee):
        raise UserError(
            f"the limit {EPSILON}={limits.epsilon:g} needs a characterisation with noise, and "
            f"{', '.join(map(str, workdirs))} guarantees nothing; characterise with, for example, "
            "--mechanism=gaussian:clip=1,sigma=45 and give that --workdir as well"
        )
    return grids


def margins_of(
    grids: Sequence[Characterised], limits: Limits, settings: PlanSettings
) -> tuple[Mapping[str, float], Promise | None]:
    """Returns metric -> how far under its limit a plan must stay, and what that rests on.

    Raises:
        UserError: settings contradict each other or grids, or have too few episodes.
    """
    given = {"psnr_db": settings.margin_db, "ssim": settings.margin_ssim}
    given = {metric: margin for metric, margin in given.items() if margin is not None}
    has_mechanism = any(grid.mechanism != Plain() for grid in grids)
    image_size = grids[0].config["image_size"]
    if settings.episodes is None:
        if given or has_mechanism or not settings.attacked_images or settings.training != TRAINING:
            return {**planner.MARGINS, **given}, None
        return usual_margins(limits, image_size)
    if has_mechanism:
        raise UserError(
            "--episodes are of plans without a mechanism, and a characterisation here has one; "
            "leave one of both out"
        )
    if given or not settings.attacked_images:
        raise UserError(
            "--episodes say what margins are to be, of channels that are attacked first; leave out "
            "--margin_db, --margin_ssim and --attacked_images=0, or --episodes"
        )
    return promise_of(settings.episodes, limits, image_size)


def _check_alike(workdirs: Sequence[Path], grids: Sequence[Characterised]) -> None:
    """Raises UserError where characterisations differ in more than their mechanism."""
    if len({grid.mechanism for grid in grids}) < len(grids):
        raise UserError(
            f"two of {', '.join(map(str, workdirs))} have one mechanism, "
            f"{', '.join(str(grid.mechanism) for grid in grids)}; give one of each"
        )
    for name in _ALIKE:
        values = {str(grid.config.get(name)) for grid in grids}
        if len(values) > 1:
            raise UserError(
                f"{', '.join(map(str, workdirs))} were characterised with {name} "
                f"{' and '.join(sorted(values))}; accuracies and privacy losses can be compared "
                "where all but the mechanism is the same; characterise them alike"
            )


def characterised_cells(workdir: Path, selection: str | None = None) -> Characterised:
    """Returns a finished characterisation with its cells of a selection.

    None is the selection that plans use unless another one is asked for. UserError: cells are
    missing, or there are none of the selection.
    """
    store, config = ResultStore.existing(workdir)
    method = usual_selection(selection, config)
    results = store.grid_results(config)
    return Characterised(store, config, [cell for cell in results if cell.selection == method])


def usual_selection(wished: str | None, config: Mapping[str, Any]) -> str:
    """Returns the selection that was asked for, or the best that was characterised.

    Nothing is expected of one selection by the cells of another.
    """
    present = config["selections"]
    searched = config["mode"] == DEDICATED and DIRECT in present
    usual = ((DIRECT,) if searched else ()) + ("both", RANDOM)
    method = wished or next((name for name in usual if name in present), present[0])
    if method not in present:
        raise UserError(
            f"--selection={method} needs a characterisation with cells of it, and this one has the "
            f"selections {', '.join(present)}; characterise with --selections={method}, or give "
            "another --selection"
        )
    return method


def _plan(
    decision: Decision,
    config: Mapping[str, Any],
    weights: PretrainedWeights,
    sample: Sample,
    selection: Selection,
    latency_on: str,
    promise: Promise | None,
) -> Plan:
    option = decision.chosen
    topology = option.topology(selection.channels(option.depth))
    # What values are scaled by, and what they reach up to.
    unit = released_unit(weights, sample.images, topology, planned_mechanism(option.mechanism))
    scales, peaks = normalisation(weights, sample.images, topology)
    return Plan(
        id=secrets.token_hex(32),
        topology=topology,
        selection=selection,
        limits=decision.limits,
        expected=option.expected,
        image_size=config["image_size"],
        class_names=sample.label_names or sample.class_names,
        scales=tuple(map(float, scales)),
        peaks=tuple(map(float, peaks / unit)),
        mechanism=option.mechanism,
        unit=unit,
        epsilon=option.cost.get(EPSILON),
        weights=weights.source,
        weights_fingerprint=weights.fingerprint,
        latency_ms=option.cost.get("latency_ms"),
        latency_on=latency_on or "not measured",
        characterised={
            "settings": dict(config),
            "selection": option.selection,
            "draws": option.draws,
            "margin_db": decision.margins["psnr_db"],
            "margin_ssim": decision.margins["ssim"],
            "tested": dict(option.tested),
        },
        measured=option.measured,
        promise=promise,
        sample=sample.digests,
        reading=sample.reading,
    )
