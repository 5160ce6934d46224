"""What a report's reader decides among: options, what each needs of every limit, and the command.

`experiments.report` writes it into the page, whose script only compares and takes the first, as
`planner.choose` does. All that is compared is computed here, by the planner's own functions, and
JSON keeps every digit.
"""

import dataclasses
import itertools
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.planning.draw_meter import least_images
from privynet_jax.planning.drawing import PlanSettings
from privynet_jax.planning.options import Option
from privynet_jax.planning.plan import EPSILON, LIMITS, STATISTICS, Limits
from privynet_jax.planning.planner import (
    COST_NOTCH,
    DIGITS,
    MARGINS,
    NOTCHES,
    least_limit,
    unmeasured,
)
from privynet_jax.planning.topology_plan import Characterised, margins_of, usual_selection
from privynet_jax.planning.wording import OF_IMAGES, WORDS, named, with_unit
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.latencies import Latencies
from privynet_jax.results.work_directory import ResultStore

# What is held against limits of privacy loss: what a plan starts from that attacks channels before
# it is written, which is the usual one, and what one without that relies on.
MEASURED, EXPECTED = "measured", "expected"
_PLANNED = {MEASURED: PlanSettings(), EXPECTED: PlanSettings(attacked_images=0)}
_STEPS = 50  # of a slider, at least
_MOST = {"ssim": 1.0}  # that plan takes
_ABSENT = {
    "latency_ms": "No latencies are known here: plan measures them where it runs, for "
    "--max_latency_ms, and a report takes a device's with --latency.",
    EPSILON: "These cells were characterised without a mechanism that guarantees an epsilon, so "
    "there is none to limit.",
}


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit with a slider.

    Attributes:
        name: of `plan.LIMITS`.
        title: what it is called.
        unit: of its numbers; empty for none.
        least, most, step: of the slider: below all that is needed, and enough for everything.
        digits: after the point.
    """

    name: str
    title: str
    unit: str
    least: float
    most: float
    step: float
    digits: int


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a page decides on.

    Attributes:
        limits: those with a slider.
        absent: why the others have none.
        selections: of which there are cells, the one that plans use first.
        statistics: name -> what it is called.
        told: what the page's script reads, to be written as JSON.
    """

    limits: tuple[Limit, ...]
    absent: tuple[str, ...]
    selections: tuple[str, ...]
    statistics: Mapping[str, str]
    told: Mapping[str, Any]


def setting_id(num_layers: int, depth: int, selection: str) -> str:
    """Returns the name by which a page's script, picture and lists know a setting."""
    return f"m{num_layers:02d}_d{depth:03d}_{selection}"


def ground(
    store: ResultStore,
    config: Mapping[str, Any],
    results: Sequence[CellResult],
    latencies: Latencies | None,
    command: Sequence[str],
) -> Ground:
    """Returns what can be decided on results; the command is the beginning of plan's.

    Raises UserError where latencies lack an option.
    """
    present = {result.selection for result in results}
    usual = usual_selection(None, {**config, "selections": sorted(present)})
    selections = (usual, *sorted(present - {usual}))
    margins = _margins(store, config)
    options = {
        selection: {
            statistic: _entries(
                _ranked(store, config, results, selection, statistic, latencies), margins[statistic]
            )
            for statistic in STATISTICS
        }
        for selection in selections
    }
    entries = [e for of in options.values() for found in of.values() for e in found]
    limits = tuple(filter(None, (_limit(name, entries) for name in LIMITS)))
    named_limits = {limit.name for limit in limits}
    told = {
        "options": options,
        "margins": {statistic: _told(of) for statistic, of in margins.items()},
        "words": {limit.name: {"title": limit.title, "unit": limit.unit} for limit in limits},
        "digits": DIGITS,
        "notches": {"by": NOTCHES, "share": COST_NOTCH},
        "command": shlex.join(command),
        "flags": _flags(),
    }
    absent = tuple(why for name, why in _ABSENT.items() if name not in named_limits)
    return Ground(limits, absent, selections, OF_IMAGES, told)


def _margins(
    store: ResultStore, config: Mapping[str, Any]
) -> dict[str, dict[str, Mapping[str, float]]]:
    """Statistic -> what is held against limits -> metric -> margin: those of plans."""
    grid = [Characterised(store, config, [])]
    return {
        statistic: {
            judged: margins_of(grid, Limits(statistic=statistic), settings)[0]
            for judged, settings in _PLANNED.items()
        }
        for statistic in STATISTICS
    }


def _told(margins: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    return {
        judged: ", ".join(f"{with_unit(m, of[m])} of {m.partition('_')[0].upper()}" for m in of)
        for judged, of in margins.items()
    }


def command(workdir: Path, latency: str | None, private: bool) -> list[str]:
    """Returns the beginning of the command that plans, without limits.

    A page may be handed on, so of a folder elsewhere, or of private pictures, only the name is
    told.
    """
    near = os.path.relpath(workdir)
    where = workdir.resolve().name if private or near.startswith("..") else near
    known = [f"--latency={Path(latency).name}"] if latency else []
    told = (f"--workdir={where}", "--sample=folder:pictures", "--out=plan.json")
    return ["python", "-m", "experiments.plan", *told, *known]


def _ranked(
    store: ResultStore,
    config: Mapping[str, Any],
    results: Sequence[CellResult],
    selection: str,
    statistic: str,
    latencies: Latencies | None,
) -> list[Option]:
    """The options of a selection, the best first."""
    cells = [result for result in results if result.selection == selection]
    options = Characterised(store, config, cells).options(statistic)
    if latencies is not None:
        options = [_timed(option, config["image_size"], latencies) for option in options]
    return sorted(options, key=lambda option: option.rank)


def _timed(option: Option, image_size: int, latencies: Latencies) -> Option:
    found = latencies.of(option.backbone, image_size, *option.shape)
    return dataclasses.replace(option, cost={**option.cost, "latency_ms": found})


def _entries(
    options: Sequence[Option], margins: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """What the script knows of each option: privacy losses that it needs are of two kinds."""
    found = []
    for option, hoped in zip(options, unmeasured(options), strict=True):
        costs = [name for name in LIMITS if name not in MARGINS]
        expected = option.expected
        found.append(
            {
                "id": setting_id(*option.shape, option.selection),
                "title": named(option),
                "merit": option.merit,
                "balanced": f"{100 * expected.balanced_accuracy.value:.1f}",
                MEASURED: _needs(hoped, MARGINS, margins[MEASURED]),
                EXPECTED: _needs(option, MARGINS, margins[EXPECTED]),
                "cost": _needs(option, costs, {}),
            }
        )
    return found


def _needs(
    option: Option, limits: Iterable[str], margins: Mapping[str, float]
) -> dict[str, float | None]:
    """Limit -> the least one that is kept; None for none, and nothing where any is."""
    needs = {limit: least_limit(option, limit, margins) for limit in limits}
    return {
        limit: None if math.isinf(need) else float(need)
        for limit, need in needs.items()
        if need > -math.inf
    }


def _limit(name: str, entries: Sequence[Mapping[str, Any]]) -> Limit | None:
    """The slider of a limit; None where nothing is known of it."""
    groups = ("cost", MEASURED, EXPECTED)
    needs = [e[g].get(name) for e, g in itertools.product(entries, groups)]
    known = [need for need in needs if need is not None]
    if not known:
        return None
    low, high, digits = min(known), max(known), DIGITS[name]
    step = 10.0 ** math.floor(math.log10(max(high - low, high / 10) / _STEPS))
    step = max(step, 10.0**-digits)
    least = max(step, (math.floor(low / step) - 1) * step)
    most = min((math.ceil(high / step) + 1) * step, _MOST.get(name, math.inf))
    ends = (round(value, digits) for value in (least, most, step))
    return Limit(name, *WORDS[name], *ends, digits)


def _flags() -> dict[str, dict[str, list[str]]]:
    """Flags of plan by what is held against privacy loss, and statistic, other than the usual."""
    attacked, found = PlanSettings().attacked_images, {}
    for statistic in STATISTICS:
        least = least_images(statistic)  # and half of the sample is attacked
        enough = [f"--attacked_images={least}", f"--sample_images={2 * least}"]
        found[statistic] = enough if least > attacked else []
    return {
        MEASURED: found,
        EXPECTED: {statistic: ["--attacked_images=0"] for statistic in STATISTICS},
    }
