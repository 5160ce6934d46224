"""What ten times the training would reach, extrapolated from the ends of a training's cycles.

Held-out errors at equally low learning rates fall like a power of the steps once a network has
begun to learn, and more slowly later. So the gain in PSNR that is still to come goes with a power
of what the last doubling of the training brought (the constants say where they come from). No JAX.

    expected_gain(trained.history, task.error)  # Gain(value=2.1, low=1.4, high=2.9), in dB
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from privynet_jax.training.convergence import Validation, ratio_per_doubling

# The training that is told of, as a multiple of what there was.
TIMES = 10


class Gain(NamedTuple):
    """By how much PSNR would rise, in dB, and between which ends nine times in ten."""

    value: float
    low: float
    high: float


# gain = _GAIN * (dB per doubling) ** _POWER, and what gains are divided and multiplied by to hold
# nine of ten cells
_GAIN, _POWER, _LOW, _HIGH = 2.9, 0.55, 0.7, 1.4
# dB per doubling that count as the least there is: errors of trainings that are over go up, too.
_LEAST_DB = 0.05


def expected_gain(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> Gain | None:
    """Returns what ten times the training would add; None of fewer than two cycles.

    `error` is `tasks.Task`'s: a squared error.
    """
    ratio = ratio_per_doubling(history, error)
    if ratio is None or not ratio > 0:
        return None
    per_doubling = max(_LEAST_DB, -10 * math.log10(ratio))
    value = _GAIN * per_doubling**_POWER
    return Gain(value, _LOW * value, _HIGH * value)
