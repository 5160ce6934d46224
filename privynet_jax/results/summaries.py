"""Results over random draws for people to read, and what ways to trade accuracy for privacy offer.

own = [Point(14.1, 0.27), Point(19.0, 0.58), Point(23.5, 0.66)]
best_accuracy(own, 20.0)  # 0.598: between the second and the third
"""

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from privynet_jax.results.cell_results import CLOSED_FORM, AttackResult, CellResult
from privynet_jax.results.text_tables import aligned
from privynet_jax.training.convergence import not_converged


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean, least and greatest of one number over the draws of channels."""

    mean: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarises the values of all draws."""
        least, greatest = min(values), max(values)
        # Rounding can put the mean of equal values just outside them.
        return cls(min(max(float(np.mean(values)), least), greatest), least, greatest)


@dataclasses.dataclass(frozen=True)
class DrawSummary:
    """The cells of one (layers, depth, selection), which differ in the drawn channels only.

    The spreads over draws are of accuracies in [0, 1], and of means and 95th percentiles over
    images.
    """

    cells: tuple[CellResult, ...]
    accuracy: Spread
    balanced_accuracy: Spread
    psnr_db: Spread
    psnr_db_p95: Spread
    ssim: Spread
    psnr_db_limit: Spread | None  # after ten times the training; None where a cell does not tell


def over_draws(results: Sequence[CellResult]) -> list[DrawSummary]:
    """Returns one summary per (layers, depth, selection), in ascending order."""
    shape, summaries = operator.attrgetter("num_layers", "depth", "selection"), []
    for _, group in itertools.groupby(sorted(results, key=shape), key=shape):
        cells = tuple(group)
        rows = [cell.row() for cell in cells]
        columns = ("accuracy", "balanced_accuracy", "psnr_db_mean", "psnr_db_p95", "ssim_mean")
        spreads = [Spread.of([row[column] for row in rows]) for column in columns]
        limits = [row["psnr_db_limit"] for row in rows]
        further = None if "" in limits else Spread.of(limits)
        summaries.append(DrawSummary(cells, *spreads, further))
    return summaries


def summary_table(
    results: Sequence[CellResult], references: Sequence[Mapping[str, str]] = ()
) -> str:
    """Returns a text table with a row per `over_draws`, and rows of `reference.csv` after it."""
    rows = [_summary_row(summary) for summary in over_draws(results)]
    if not any(row["limit dB"] for row in rows):  # estimates, or an older work directory
        rows = [{name: row[name] for name in row if name != "limit dB"} for row in rows]
    lines = [aligned(rows, digits=1)] if rows else []
    for share in sorted({100 * result.commonest_class_share for result in results}):
        lines.append(f"for comparison, always the commonest class: {share:.1f} % accuracy")
    return "\n".join([*lines, *map(_reference_line, references)])


def convergence_note(results: Sequence[CellResult]) -> str:
    """Says of how many cells the privacy loss comes from an attacker who was still improving."""
    trained = [r.strongest for r in results if r.strongest.attacker != CLOSED_FORM]
    every = f"The strongest attackers of all {len(results)} cells"
    if not trained:
        return f"{every} are closed forms, which have no training to finish."
    if all(attack.converged is None for attack in trained):
        return "Whether the strongest attackers had converged was not recorded."
    falling = [a.falling_percent_per_doubling for a in trained if a.converged is False]
    if not falling:
        return f"{every} had converged."
    who = f"In {len(falling)} of {len(results)} cells the strongest attacker"
    return not_converged(who, falling) + _gain_note(trained)


def _gain_note(attacks: Sequence[AttackResult]) -> str:
    """By how much, where that is known."""
    gains = [attack.gain_db for attack in attacks if attack.gain_db]
    if not gains:
        return ""
    found = [f"{end(gain.value for gain in gains):.1f}" for end in (min, max)]
    ends = f"{' to '.join(dict.fromkeys(found))} dB, with intervals up to "
    ends += f"{max(gain.high for gain in gains):.1f}"
    return f" Ten times the training would find about {ends} (psnr_db_limit)."


def _summary_row(summary: DrawSummary) -> dict[str, Any]:
    first = summary.cells[0]
    return {
        "layers": f"{first.num_layers:2d} {first.layer}",
        "depth": first.depth,
        "selection": first.selection,
        "draws": len(summary.cells),
        "accuracy %": _ranged(summary.accuracy, 100),
        "balanced %": 100 * summary.balanced_accuracy.mean,
        "PSNR dB": _ranged(summary.psnr_db),
        "limit dB": summary.psnr_db_limit.mean if summary.psnr_db_limit else "",
        "p95 dB": summary.psnr_db_p95.mean,
        "SSIM": f"{summary.ssim.mean:.2f}",
        "attacker": "/".join(sorted({cell.strongest.attacker for cell in summary.cells})),
        "local MMACs": first.cost["local_macs"] / 1e6,
        "released KiB": first.cost["release_bytes"] / 1024,
    }


def _reference_line(row: Mapping[str, str]) -> str:
    accuracy, psnr, title = row["accuracy"], row["psnr_db_mean"], row["reference"].replace("_", " ")
    parts = [f"{100 * float(accuracy):.1f} % accuracy"] if accuracy else []
    parts += [f"{100 * float(row['balanced_accuracy']):.1f} % balanced"] if accuracy else []
    parts += [f"{float(psnr):.1f} dB, SSIM {float(row['ssim_mean']):.2f}"] if psnr else []
    return f"for comparison, {title}: {', '.join(parts)}"


def _ranged(spread: Spread, factor: float = 1.0) -> str:
    mean, least, greatest = (factor * v for v in (spread.mean, spread.least, spread.greatest))
    return f"{mean:4.1f} ({least:.1f}-{greatest:.1f})"


class Point(NamedTuple):
    """One measured option: mean PSNR in dB of the strongest attacker, accuracy in [0, 1]."""

    psnr_db: float
    accuracy: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other one beats at both, privacy loss ascending."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.psnr_db, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def frontier_cells(results: Sequence[CellResult]) -> list[CellResult]:
    """Returns the cells that no other one beats at both, privacy loss ascending.

    Validation images decide, because the best of many on test images is better there by luck too.
    """
    points: dict[Point, CellResult] = {}
    for result in results:
        row = result.row()
        loss, accuracy = row["validation_psnr_db_mean"], row["validation_balanced_accuracy"]
        points.setdefault(Point(loss, accuracy), result)
    return [points[point] for point in frontier(list(points))]


def best_accuracy(points: Sequence[Point], psnr_db: float) -> float | None:
    """Returns the accuracy to be had at a privacy loss, or None where all points lose more.

    Between two points of the frontier it is interpolated, since grids have gaps: some pictures by
    one of them and the rest by the other give both means.
    """
    best = frontier(points)
    if not best or psnr_db < best[0].psnr_db:
        return None
    return float(np.interp(psnr_db, *zip(*best, strict=True)))
