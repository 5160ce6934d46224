"""Estimates made comparable with dedicated numbers by a few cells that have both.

Estimates are off by about the same in similar cells. What they lack is regressed on the number of
layers, the logarithm of the depth, and the estimate itself, towards one offset for all.

    chosen = spread_out(estimated, most=8)
    numbers = calibrated(estimated, {i: dedicated[i] for i in chosen})
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# How strongly slopes are held back: as by one more cell at unit distance that has none.
_RIDGE = 1.0


class Estimated(NamedTuple):
    """A cell's place in the grid and what was estimated of it."""

    num_layers: int
    depth: int
    value: float


def spread_out(cells: Sequence[Estimated], most: int) -> list[int]:
    """Returns which cells to calibrate on: evenly spaced, by number of layers, then by estimate."""
    order = sorted(range(len(cells)), key=lambda i: (cells[i].num_layers, cells[i].value))
    places = np.linspace(0, len(cells) - 1, min(most, len(cells)))
    return sorted({order[round(place)] for place in places})


def calibrated(cells: Sequence[Estimated], truths: Mapping[int, float]) -> np.ndarray:
    """Returns float64 [N]: estimates of all cells, corrected by the true values of some.

    Raises:
        ValueError: there is no true value.
    """
    if not truths:
        raise ValueError("Expected at least one cell with a true value, got none.")
    known = sorted(truths)
    estimates = np.array([cell.value for cell in cells], np.float64)
    lacking = np.array([truths[i] for i in known]) - estimates[known]
    about = np.array([(cell.num_layers, np.log2(cell.depth), cell.value) for cell in cells])
    centre, scale = about[known].mean(axis=0), about[known].std(axis=0)
    about = (about - centre) / np.where(scale > 0, scale, np.inf)
    own = about[known]
    gram = own.T @ own + _RIDGE * np.eye(about.shape[1])
    slopes = np.linalg.solve(gram, own.T @ (lacking - lacking.mean()))
    return estimates + lacking.mean() + about @ slopes
