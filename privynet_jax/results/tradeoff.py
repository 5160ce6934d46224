"""What one way of trading accuracy for privacy offers at any privacy loss, to compare others with.

    own = [Point(14.1, 0.27), Point(19.0, 0.58), Point(23.5, 0.66)]
    best_accuracy(own, 20.0)  # 0.598: between the second and the third

NumPy only; `experiments.compare_defences` holds defences against the topologies of a grid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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


def best_accuracy(points: Sequence[Point], psnr_db: float) -> float | None:
    """Returns the accuracy to be had at a privacy loss, or None where all points lose more.

    Between two points of the frontier it is interpolated, since grids have gaps: using one of them
    for some pictures and the other one for the rest gives both means, if each cloud NN is as good
    with its share of the pictures.
    """
    best = frontier(points)
    if not best or psnr_db < best[0].psnr_db:
        return None
    return float(np.interp(psnr_db, *zip(*best, strict=True)))
