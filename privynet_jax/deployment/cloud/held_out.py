"""Which rows nothing is learnt from: the same ones, as other rows come and go.

    chances = chances_of(digests, seed=0)  # float [N], from 0 to 1, by what each row is
    bounds = bounds_of(chances, labels, num_classes=3, fraction=0.1)  # of each class
    held_out = chances < bounds[labels]

A class's bound is kept with the classifier: so one that learns on, from where that stands, holds
out what was held out, and is not judged by rows that were learnt. No JAX here.
"""

import hashlib
from collections.abc import Iterable

import numpy as np


def chances_of(digests: Iterable[str], seed: int) -> np.ndarray:
    """Returns a number from 0 to 1 for each row, float64 [N]; another seed gives others."""
    return np.fromiter((_chance(digest, seed) for digest in digests), float)


def bounds_of(
    chances: np.ndarray, labels: np.ndarray, num_classes: int, fraction: float
) -> np.ndarray:
    """Returns each class's bound, float64 [num_classes]: below it lies this fraction of its rows.

    At least one of each class that has two that differ does, and not all. A bound has as few digits
    as can be: it says nothing of single rows.
    """
    bounds = np.zeros(num_classes)
    for label in np.unique(labels):
        mine = np.sort(chances[labels == label])
        # Equal rows stay together.
        counts = np.flatnonzero(np.diff(mine) > 0) + 1
        if len(counts):
            count = counts[np.abs(counts - round(fraction * len(mine))).argmin()]
            bounds[label] = _shortest(mine[count - 1], mine[count])
        else:  # all of them are learnt
            bounds[label] = min(fraction, _shortest(0, mine[0]))
    return bounds


def _chance(digest: str, seed: int) -> float:
    found = hashlib.sha256(f"privynet_jax held out {seed} {digest}".encode()).digest()
    return int.from_bytes(found[:8], "little") / 2**64


def _shortest(low: float, high: float) -> float:
    """The number with the fewest decimals that is above low and not above high."""
    for digits in range(1, 18):
        number = round(np.floor(high * 10**digits) / 10**digits, digits)
        if low < number <= high:
            return number
    return high
