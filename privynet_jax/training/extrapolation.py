"""What ten times the training would reach, extrapolated from the ends of a training's cycles.

A network that starts from a closed form gains PSNR over it: fast at first, then like a power of the
steps, then ever less. So what is to come is told from what was gained so far and from how long
that took, by a law whose constants were fitted to attackers who were trained ten times as long
(experiments/RESULTS.md has them, and how well others follow it). No JAX here.

    expected_gain(trained.history, task.error)  # Gain(value=2.1, low=1.4, high=2.9), in dB

An attack that goes on from another's estimates gains what is told by `gain_from`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from privynet_jax.training.convergence import Validation, cycle_ends

# The training that is told of, as a multiple of what there was.
TIMES = 10
# Nothing is known of shorter trainings.
LEAST_STEPS = 30
# ln gain = level + power ln gained + slowing ln n + widening ln gained ln n, of n * 300 steps; and
# what it is multiplied by at the ends that hold nine gains in ten.
_STEPS = 300
_LEVEL, _POWER, _SLOWING, _WIDENING = -1.40, 1.03, -1.275, 0.247
_LOW, _HIGH = 0.46, 1.91
# dB that count as the least gained so far, and the least to come: less is noise.
_LEAST_DB = 0.1


class Gain(NamedTuple):
    """By how much PSNR would rise, in dB, and between which ends nine times in ten."""

    value: float
    low: float
    high: float


def expected_gain(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> Gain | None:
    """Returns what ten times the training would add; None where that cannot be told.

    It takes a validation before the first step, `LEAST_STEPS` to the end of a cycle, and finite
    errors. `error` is `tasks.Task`'s: a squared error, and at first the closed form's.
    """
    ends = cycle_ends(history, error)
    if not ends or history[0].step or ends[-1][0] < LEAST_STEPS:
        return None
    (steps, last), first = ends[-1], error(history[0].means)
    if not (0 < last < math.inf and 0 < first < math.inf):
        return None
    gained = math.log(max(_LEAST_DB, 10 * math.log10(first / last)))
    times = math.log(steps / _STEPS)
    power = _POWER + _WIDENING * times
    value = max(_LEAST_DB, math.exp(_LEVEL + power * gained + _SLOWING * times))
    return Gain(value, _LOW * value, _HIGH * value)


def gain_from(start: Gain, doubling_db: float) -> Gain:
    """Returns what ten times of both add at most, to images optimised from an attack's estimates.

    What the start gains comes through in part (28 to 83 % of it, experiments/RESULTS.md,
    "White-box optimisation"), so `value` counts all of it, and `low` none. The last doubling of the
    optimisation's steps added `doubling_db` of PSNR, and those to come are taken to add as much
    each, though they add ever less.
    """
    more = max(0.0, doubling_db) * math.log2(TIMES)
    return Gain(start.value + more, 0.0, start.high + more)
