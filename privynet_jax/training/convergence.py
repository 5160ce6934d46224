"""How a training went, and whether more of it would have gained anything: one definition for all.

A network is only comparable once its learning rate has gone down. So a training that is to be
judged comes in cycles, each a warm-up and a cosine down to zero, and held-out examples are looked
at after each. By how much the error fell from the end of the last cycle but one to the end of the
last, per doubling of training, says whether it has converged.

    falling_percent_per_doubling(history, error)  # 3.1
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# A squared error that falls by so much is 0.2 dB.
CONVERGED_PERCENT = 5.0


class Validation(NamedTuple):
    """What held-out examples said at some moment.

    Attributes:
        step: how many steps had been taken.
        means: of each of the task's measures.
        ends_cycle: whether the learning rate had gone down to zero.
        training_loss: mean over the steps since the validation before.
    """

    step: int
    means: Mapping[str, float]
    ends_cycle: bool
    training_loss: float


def falling_percent_per_doubling(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> float:
    """Returns by how many percent the held-out error fell per doubling of training at its end.

    Args:
        history: of a training; with fewer than two cycles nothing is known, which counts as 100.
        error: means of measures -> a positive number (`tasks.Task`).
    """
    ends = [(moment.step, error(moment.means)) for moment in history if moment.ends_cycle]
    if len(ends) < 2:
        return 100.0
    (earlier, before), (later, after) = ends[-2:]
    return 100 * (1 - (after / before) ** (1 / math.log2(later / earlier)))


def has_converged(falling_percent: float, epochs: float) -> bool:
    """Whether doubling a training would gain little.

    Never before each example was seen once: a network that has hardly begun gains little too.
    """
    return epochs >= 1 and falling_percent <= CONVERGED_PERCENT


def without_progress(scores: Sequence[tuple[float, ...]]) -> int:
    """Returns how many validations there were since any number of the scores was the best ever."""
    best = [-math.inf] * (len(scores[0]) if scores else 0)
    count = 0
    for score in scores:
        count = 0 if any(new > old for new, old in zip(score, best, strict=True)) else count + 1
        best = [max(pair) for pair in zip(score, best, strict=True)]
    return count
