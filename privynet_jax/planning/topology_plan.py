"""From a finished characterisation, limits and a few pictures to a plan: the planner's whole way.

`options` reads what was measured, `planner` decides, `latency` measures what is limited, and the
pictures score the channels of what was chosen.

    limits = Limits(psnr_db=22.0, local_mmacs=160.0)
    planned = plan_topology(Path("runs/public"), "folder:pictures", limits)
    print(planned.explanation)
    write_plan(Path("plan.json"), planned.plan)
"""

import contextlib
import dataclasses
import functools
import itertools
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.backbone.topology import DIRECT, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights, check_source
from privynet_jax.characterisation.config import DEDICATED, LOCAL_CACHE, Config
from privynet_jax.characterisation.reopening import matching_weights
from privynet_jax.errors import UserError
from privynet_jax.images.sample import Sample, load_sample
from privynet_jax.planning import planner
from privynet_jax.planning.draw_meter import DrawMeter
from privynet_jax.planning.explanation import explained, refusal
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.options import Option, options_of
from privynet_jax.planning.plan import Limits, Measured, Plan, Promise
from privynet_jax.planning.planner import Decision
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.secret_draw import Selection, select
from privynet_jax.training.session import session


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How a plan is made, besides its limits.

    Attributes:
        selection: one of `topology.METHODS`; `direct` releases the best channels that the search
            found, the others draw in secret from what is left. None is `direct` where a dedicated
            characterisation searched for it, else `both`.
        margin_db: kept under the limit on PSNR: audits find more than was measured or expected.
        margin_ssim: likewise under the limit on SSIM.
        promise: what the margins rest on; None: nothing that was measured.
        attacked_images: of the sample, that class `public` is scored on, with the very channels
            that are to be released, see `draw_meter`; 0 relies on what is expected.
        draw_seed: 64 hexadecimal digits, for measurements that protect nobody's pictures; None
            draws channels in secret.
        measure_latency: measure the chosen topology's even without a limit on it.
        sample_images: pictures to look at; None is the usual number, see `sample.load_sample`.
        skip_unreadable: leave out pictures that cannot be decoded.
        sixteen_bit_max: see `parts.load_parts`.
        cache_dir: of weights.
        data_dir: folder of TFDS data sets; None is TFDS's default.
    """

    selection: str | None = None
    margin_db: float = planner.MARGINS["psnr_db"]
    margin_ssim: float = planner.MARGINS["ssim"]
    promise: Promise | None = None
    attacked_images: int = 64
    draw_seed: str | None = None
    measure_latency: bool = False
    sample_images: int | None = None
    skip_unreadable: bool = False
    sixteen_bit_max: int = 0
    cache_dir: Path = LOCAL_CACHE
    data_dir: Path | str | None = None


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


def plan_topology(
    workdir: Path,
    sample: str,
    limits: Limits,
    weights: str = "embedded",
    settings: PlanSettings | None = None,
) -> Planned:
    """Returns the plan of the best characterised topology under limits, by balanced accuracy.

    Args:
        workdir: a finished characterisation.
        sample: the user's own labelled pictures, `folder:PATH` or a TFDS data set.
        limits: what to keep to.
        weights: where to have the weights from, those of the characterisation; see `load_weights`.
        settings: None is the usual ones.

    Raises:
        NothingFitsError: no topology keeps the limits; pictures and weights were not looked at.
        UserError: the characterisation is not finished or has nothing of the selection, or weights
            or pictures are not there or do not fit.
    """
    settings = settings or PlanSettings()
    store, config, cells = characterised_cells(workdir, settings.selection)
    check_source(weights, config["backbone"])
    method = cells[0].selection
    options = options_of(cells, config["image_size"], limits.statistic)
    margins = {"psnr_db": settings.margin_db, "ssim": settings.margin_ssim}
    if settings.attacked_images:
        options = planner.unmeasured(options)
    hoped_for = planner.choose(options, limits, margins)
    if hoped_for.chosen is None:
        raise NothingFitsError(refusal(hoped_for), explained(hoped_for, config))
    pretrained = matching_weights(weights, config, workdir, settings.cache_dir)
    pictures = load_sample(
        sample,
        data_dir=settings.data_dir,
        image_size=config["image_size"],
        count=settings.sample_images,
        skip_unreadable=settings.skip_unreadable,
        sixteen_bit_max=settings.sixteen_bit_max,
    )
    drawing = _Drawing(pretrained, pictures, method, store, limits, settings)
    decision, latency_on = drawing.decide(options, margins, config)
    explanation = explained(decision, config, latency_on, settings.promise)
    option = decision.chosen
    if option is None:
        raise NothingFitsError(refusal(decision), explanation)
    selection = drawing.selection(option)
    plan = _plan(decision, config, pretrained, pictures, selection, latency_on, settings.promise)
    same = [c for c in cells if (c.num_layers, c.depth) == (option.num_layers, option.depth)]
    return Planned(plan, explanation, tuple(same), pictures.available)


def characterised_cells(
    workdir: Path, selection: str | None = None
) -> tuple[ResultStore, Mapping[str, Any], list[CellResult]]:
    """Returns a finished characterisation, its settings, and its cells of a selection.

    None is the selection that plans use unless another one is asked for. UserError: cells are
    missing, or there are none of the selection.
    """
    store, config = ResultStore.existing(workdir)
    method = _method(selection, config)
    results = store.grid_results(config)
    return store, config, [cell for cell in results if cell.selection == method]


def _method(wished: str | None, config: Mapping[str, Any]) -> str:
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawing:
    """Draws channels for options in secret, and measures what they give away."""

    weights: PretrainedWeights
    sample: Sample
    method: str
    store: ResultStore
    limits: Limits
    settings: PlanSettings
    drawn: dict[tuple[int, int], Selection] = dataclasses.field(default_factory=dict)

    def selection(self, option: Option) -> Selection:
        """Returns how the channels of an option were chosen: drawn once."""
        layer, depth = option.shape
        if option.shape not in self.drawn:
            if self.method == DIRECT:
                candidates = self.store.load_candidates(DIRECT, layer, depth, option.backbone)
            else:
                images, labels = self.sample.images, self.sample.labels
                scores = channel_scores(self.weights, images, labels, [layer])[layer]
                candidates = pruned_candidates(self.method, scores, depth)
            self.drawn[option.shape] = select(
                candidates, self.method, depth, self.settings.draw_seed
            )
        return self.drawn[option.shape]

    def decide(
        self, options: list[Option], margins: Mapping[str, float], config: Mapping[str, Any]
    ) -> tuple[Decision, str]:
        """Returns what is chosen, and where latency was measured; empty where it was not."""
        limits, settings = self.limits, self.settings
        measures = [self._attacked(config)] if settings.attacked_images else []
        timed = settings.measure_latency or limits.latency_ms is not None
        with Meter() if timed else contextlib.nullcontext() as meter:
            if timed:
                measures.insert(0, functools.partial(_timed, meter, config["image_size"]))

            def measure(option: Option) -> Option:
                for each in measures:
                    if not planner.choose([option], limits, margins).chosen:
                        return option  # nothing else decides any more
                    option = each(option)
                return option

            decision = planner.choose_measured(options, limits, margins, measure)
            return decision, meter.where if timed else ""

    def _attacked(self, config: Mapping[str, Any]) -> Callable[[Option], Option]:
        """Returns what measures an option's privacy loss."""
        settings, statistic = self.settings, self.limits.statistic
        trained = Config.of_settings(config, self.store.workdir, mode=DEDICATED).attacker
        budget = Budget(trained.steps, batch_size=trained.batch_size)
        [attack] = named_attacks([PUBLIC], Training(budget))
        meter = DrawMeter(
            self.weights, self.sample, attack, settings.attacked_images, config["seed"]
        )
        meter.check(statistic)
        count = itertools.count(1)

        def measure(option: Option) -> Option:
            topology = option.topology(self.selection(option).channels(option.depth))
            title = f"attacking {option.num_layers} layers, {option.depth} channels"
            with progress_bar(1, title, after=2) as advance, session(progress=advance):
                found = meter.measure(topology, statistic)
            measured = Measured(attack.name, **found, images=meter.images, draws=next(count))
            return dataclasses.replace(option, measured=measured, held=found)

        return measure


def _timed(meter: Meter, image_size: int, option: Option) -> Option:
    found = meter.measure(option.topology(range(option.depth)), image_size)
    return dataclasses.replace(option, cost={**option.cost, "latency_ms": found})


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
    scales, peaks = normalisation(weights, sample.images, topology)
    return Plan(
        id=secrets.token_hex(32),
        topology=topology,
        selection=selection,
        limits=decision.limits,
        expected=option.expected,
        image_size=config["image_size"],
        class_names=sample.class_names,
        scales=tuple(map(float, scales)),
        peaks=tuple(map(float, peaks)),
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
        sixteen_bit_max=sample.sixteen_bit_max,
    )
