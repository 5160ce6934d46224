"""What ten times the training would reach, extrapolated from the ends of a training's cycles.

Held-out errors at equally low learning rates fall like a power of the steps once a network has
begun to learn, and more slowly later. So the gain in PSNR that is still to come goes with a power
of what the last doubling of the training brought (the constants say where they come from). No JAX.

    expected_gain(trained.history, task.error)  # Gain(value=2.1, low=1.4, high=2.9), in dB
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from privynet_jax.training.convergence import Validation, cycle_ends

# The training that is told of, as a multiple of what there was.
TIMES = 10


class Gain(NamedTuple):
    """By how much PSNR would rise, in dB, and between which ends nine times in ten."""

    value: float
    low: float
    high: float


# gain = exp(_LEVEL + _PER_DB * held-out PSNR) * (dB per doubling) ** _POWER, and what it is
# multiplied by at the ends that hold nine in ten; all in dB.
_LEVEL, _PER_DB, _POWER = -0.55, 0.045, 0.84
_LOW, _HIGH = 0.6, 1.6
# dB per doubling that count as the least there is: errors of trainings that are over go up, too.
_LEAST_DB = 0.05


def expected_gain(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> Gain | None:
    """Returns what ten times the training would add; None where that cannot be told.

    It takes two cycles with finite errors. `error` is `tasks.Task`'s: a squared error.
    """
    ends = cycle_ends(history, error)[-2:]
    if len(ends) < 2 or not all(0 < value < math.inf for _, value in ends):
        return None
    (earlier, before), (later, after) = ends
    per_doubling = 10 * math.log10(before / after) / math.log2(later / earlier)
    level = math.exp(_LEVEL - _PER_DB * 10 * math.log10(after))
    value = level * max(_LEAST_DB, per_doubling) ** _POWER
    return Gain(value, _LOW * value, _HIGH * value)
