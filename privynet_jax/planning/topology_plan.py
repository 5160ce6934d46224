"""From a finished characterisation, limits and a few pictures to a plan: the planner's whole way.

`options` reads what was measured, `planner` decides, `latency` measures what is limited, and the
pictures score the channels of what was chosen.

    limits = Limits(psnr_db=22.0, local_mmacs=160.0)
    planned = plan_topology(Path("runs/public"), "folder:pictures", limits)
    print(planned.explanation)
    write_plan(Path("plan.json"), planned.plan)
"""

import dataclasses
import functools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.backbone.topology import DIRECT, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights, check_source
from privynet_jax.characterisation.config import DEDICATED, LOCAL_CACHE
from privynet_jax.characterisation.reopening import matching_weights
from privynet_jax.errors import UserError
from privynet_jax.images.sample import Sample, load_sample
from privynet_jax.planning import planner
from privynet_jax.planning.explanation import explained, refusal
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.options import Option, options_of
from privynet_jax.planning.plan import Limits, Plan
from privynet_jax.planning.planner import Decision
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.secret_draw import Selection, select


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How a plan is made, besides its limits.

    Attributes:
        selection: one of `topology.METHODS`; `direct` releases the best channels that the search
            found, the others draw in secret from what is left. None is `direct` where a dedicated
            characterisation searched for it, else `both`.
        margin_db: kept under the limit on PSNR, for stronger attackers than the characterised.
        margin_ssim: likewise under the limit on SSIM.
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
    store, config = ResultStore.existing(workdir)
    check_source(weights, config["backbone"])
    method = _method(settings.selection, config)
    cells = _cells(store.grid_results(config), method)
    options = options_of(cells, config["image_size"], limits.statistic)
    decision, latency_on = _decide(options, limits, config["image_size"], settings)
    explanation = explained(decision, config, latency_on)
    option = decision.chosen
    if option is None:
        raise NothingFitsError(refusal(decision), explanation)
    pretrained = matching_weights(weights, config, workdir, settings.cache_dir)
    pictures = load_sample(
        sample,
        data_dir=settings.data_dir,
        image_size=config["image_size"],
        count=settings.sample_images,
        skip_unreadable=settings.skip_unreadable,
        sixteen_bit_max=settings.sixteen_bit_max,
    )
    selection = _selection(pretrained, pictures, option, method, store)
    plan = _plan(decision, config, pretrained, pictures, selection, latency_on)
    same = [c for c in cells if (c.num_layers, c.depth) == (option.num_layers, option.depth)]
    return Planned(plan, explanation, tuple(same), pictures.available)


def _method(wished: str | None, config: Mapping[str, Any]) -> str:
    """Returns the selection that was asked for, or the best there is."""
    searched = config["mode"] == DEDICATED and DIRECT in config["selections"]
    method = wished or (DIRECT if searched else "both")
    if method == DIRECT and DIRECT not in config["selections"]:
        raise UserError(
            "--selection=direct needs a characterisation that searched for channels, and this one "
            f"has the selections {', '.join(config['selections'])}; characterise with "
            "--selections=random,direct, or give another --selection"
        )
    return method


def _cells(results: Sequence[CellResult], method: str) -> list[CellResult]:
    """Those of the selection; of all channels where the grid has no cells of it."""
    present = {result.selection for result in results}
    measured = method if method in present else RANDOM
    if measured not in present:
        raise UserError(
            f"the characterisation has neither {method} nor {RANDOM} selections, but "
            f"{', '.join(sorted(present))}; give one of those as --selection"
        )
    return [result for result in results if result.selection == measured]


def _decide(
    options: list[Option], limits: Limits, image_size: int, settings: PlanSettings
) -> tuple[Decision, str]:
    """Returns what is chosen, and where latency was measured; empty where it was not."""
    margins = {"psnr_db": settings.margin_db, "ssim": settings.margin_ssim}
    decision = planner.choose(options, limits, margins)
    measures = settings.measure_latency or limits.latency_ms is not None
    if decision.chosen is None or not measures:
        return decision, ""
    with Meter() as meter:
        measure = functools.partial(meter.measure, image_size=image_size)
        return planner.choose_measured(options, limits, margins, measure), meter.where


def _selection(
    weights: PretrainedWeights, sample: Sample, option: Option, method: str, store: ResultStore
) -> Selection:
    """Returns how the channels of an option were chosen, in secret where a method draws."""
    layer = option.num_layers
    if method == DIRECT:
        candidates = store.load_candidates(method, layer, option.depth, option.backbone)
    else:
        scores = channel_scores(weights, sample.images, sample.labels, [layer])[layer]
        candidates = pruned_candidates(method, scores, option.depth)
    return select(candidates, method, option.depth)


def _plan(
    decision: Decision,
    config: Mapping[str, Any],
    weights: PretrainedWeights,
    sample: Sample,
    selection: Selection,
    latency_on: str,
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
        sample=sample.digests,
        sixteen_bit_max=sample.sixteen_bit_max,
    )
