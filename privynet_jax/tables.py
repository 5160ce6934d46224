"""Results over random draws, summarised per (layers, depth) for people to read.

`results` gives one result per cell; `experiments` print the table and draw the summaries.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from privynet_jax.results import CellResult


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean, least and greatest of one number over the draws of channels."""

    mean: float
    least: float
    greatest: float


@dataclasses.dataclass(frozen=True)
class DrawSummary:
    """The cells of one (layers, depth), which differ in the drawn channels only.

    Attributes:
        cells: their results.
        accuracy: over draws, in [0, 1].
        psnr_db: over draws, of the mean over images.
        worst_psnr_db: over draws, of the 95th percentile over images.
        ssim: over draws, of the mean over images.
    """

    cells: tuple[CellResult, ...]
    accuracy: Spread
    psnr_db: Spread
    worst_psnr_db: Spread
    ssim: Spread


def over_draws(results: Sequence[CellResult]) -> list[DrawSummary]:
    """Returns one summary per (layers, depth), in ascending order."""

    def shape(result: CellResult) -> tuple[int, int]:
        return result.num_layers, result.depth

    summaries = []
    for _, group in itertools.groupby(sorted(results, key=shape), key=shape):
        cells = tuple(group)
        attacks = [cell.strongest for cell in cells]
        summaries.append(
            DrawSummary(
                cells=cells,
                accuracy=_spread([cell.accuracy for cell in cells]),
                psnr_db=_spread([attack.psnr_db.mean for attack in attacks]),
                worst_psnr_db=_spread([attack.psnr_db.p95 for attack in attacks]),
                ssim=_spread([attack.ssim.mean for attack in attacks]),
            )
        )
    return summaries


def summary_table(results: Sequence[CellResult]) -> str:
    """Returns a text table with a row per (layers, depth): means, and ranges over draws."""
    header = (
        "layers   depth  draws  accuracy %         PSNR dB            p95 dB  SSIM   attacker"
        "  local MMACs  released KiB"
    )
    lines = [header, "-" * len(header)]
    for summary in over_draws(results):
        first = summary.cells[0]
        names = "/".join(sorted({cell.strongest.attacker for cell in summary.cells}))
        lines.append(
            f"{first.num_layers:2d} {first.layer:<7} {first.depth:3d}  {len(summary.cells):5d}  "
            f"{_ranged(summary.accuracy, 100):<17}  {_ranged(summary.psnr_db):<17}  "
            f"{summary.worst_psnr_db.mean:6.1f}  {summary.ssim.mean:5.2f}  {names:<8}  "
            f"{first.cost['local_macs'] / 1e6:11.1f}  {first.cost['release_bytes'] / 1024:12.1f}"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> Spread:
    least, greatest = min(values), max(values)
    # Rounding can put the mean of equal values just outside them.
    return Spread(min(max(float(np.mean(values)), least), greatest), least, greatest)


def _ranged(spread: Spread, factor: float = 1.0) -> str:
    mean, least, greatest = (factor * v for v in (spread.mean, spread.least, spread.greatest))
    return f"{mean:4.1f} ({least:.1f}-{greatest:.1f})"
