"""The picture of `experiments.schedule`: conditions and chosen cuts over time, and what it came to.

png = schedule_picture(scheduled, cuts=("4:16", "7:8"))
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reporting.plots import GREY, as_png, plt, tidy
from privynet_jax.scheduling.traces import Trace

_SMALL = 8
# More of a long trace could not be told apart.
_SHOWN_S = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Scheduled:
    """Of one trace arrivals [P], the on-line policy's cuts [P], and the scores of all policies."""

    trace: Trace
    arrivals: np.ndarray
    chosen: np.ndarray
    scores: Mapping[str, Mapping[str, Any]]


def schedule_picture(scheduled: Sequence[Scheduled], cuts: Sequence[str]) -> bytes:
    """Returns a PNG with a row per trace, of cuts with these names."""
    figure, grid = plt.subplots(
        len(scheduled),
        3,
        figsize=(12.5, 0.6 + 2.3 * len(scheduled)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"width_ratios": (5, 1.6, 1.6)},
    )
    used = sorted({int(cut) for one in scheduled for cut in one.chosen})
    for row, one in zip(grid, scheduled, strict=True):
        row[2].sharey(row[1])
        _draw_time(row[0], one, used, cuts)
        _draw_bars(row[1], one, "energy_mj", 1, "mJ per picture")
        _draw_bars(row[2], one, "in_time", 100, "in time, %")
        row[2].tick_params(axis="y", labelleft=False)
    grid[-1, 0].set_xlabel("time, s")
    figure.suptitle(
        "The cut that the on-line policy chooses, and what each policy comes to", size=11
    )
    return as_png(figure)


def _draw_time(axes: plt.Axes, one: Scheduled, used: Sequence[int], cuts: Sequence[str]) -> None:
    """Bandwidth and slowdown as lines, and the chosen cut of each picture as a dot."""
    trace, shown = one.trace, one.arrivals <= _SHOWN_S
    rows = trace.seconds <= _SHOWN_S
    axes.scatter(
        one.arrivals[shown], [used.index(cut) for cut in one.chosen[shown]], s=7, color="C0"
    )
    axes.set_yticks(range(len(used)), [cuts[cut] for cut in used], size=_SMALL)
    axes.set_ylim(-0.6, len(used) - 0.4)
    axes.set_ylabel("cut", color="C0")
    origin = "generated" if trace.is_generated else "read from a file"
    axes.set_title(f"{trace.name} ({origin})", size=10, loc="left")
    tidy(axes)
    other = axes.twinx()
    line = {"drawstyle": "steps-post", "linewidth": 1}
    other.plot(trace.seconds[rows], trace.mbit_per_s[rows], color=GREY, label="Mbit/s", **line)
    if trace.slowdown.max() > 1:
        other.plot(trace.seconds[rows], trace.slowdown[rows], color="C5", label="slowdown", **line)
    other.set_ylim(bottom=0)
    other.tick_params(labelsize=_SMALL)
    above = {"loc": "lower right", "bbox_to_anchor": (1, 0.98), "ncols": 2, "frameon": False}
    other.legend(fontsize=_SMALL, **above)
    other.spines[["top"]].set_visible(False)


def _draw_bars(axes: plt.Axes, one: Scheduled, score: str, factor: float, label: str) -> None:
    values = [factor * own[score] for own in one.scores.values()]
    bars = axes.barh(range(len(values)), values, color=["C1", "C0", "C2"][: len(values)])
    axes.bar_label(bars, [f"{value:.3g}" for value in values], size=_SMALL, padding=2)
    axes.set_yticks(range(len(values)), list(one.scores), size=_SMALL)
    axes.set_xlim(0, 1.3 * max(*values, 1e-9))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.set_title(label, size=10, loc="left")
    tidy(axes)
