"""How long networks are trained, and whether more of it would have gained anything.

A network is only comparable once its learning rate has gone down. So a training that is to be
judged comes in cycles, each a warm-up and a cosine down to zero, and held-out examples are looked
at after each. By how much the error fell from the end of the last cycle but one to the end of the
last, per doubling of training, says whether it has converged.

    for stretch in Course(steps=300, batch_size=32, cycles=(0.3, 0.7)).stretches():
        stretch.rates(now=stretch.cycle_start, count=10)
    falling_percent_per_doubling(history, error)  # 3.1
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# A squared error that falls by so much is 0.2 dB.
CONVERGED_PERCENT = 5.0
_WARM_UP = 0.1


def relative_rate(share: float) -> float:
    """Returns the learning rate, relative to its peak, where so much of a cycle is over."""
    if share >= 1:
        return 0.0
    if share < _WARM_UP:
        # Not zero: the first step of a short cycle may be its only one.
        return max(share / _WARM_UP, 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Training between two validations; all numbers are steps, or seconds by the clock."""

    stop: float
    cycle_start: float
    cycle_stop: float
    by_clock: bool = False

    @property
    def ends_cycle(self) -> bool:
        """Whether the learning rate is zero at its end."""
        return self.stop == self.cycle_stop

    def steps_left(self, step: int) -> float:
        """Returns how many steps it has from one on; by the clock nobody knows."""
        return math.inf if self.by_clock else self.stop - step

    def rates(self, now: float, count: int) -> list[float]:
        """Returns the learning rates of the next steps, relative to their peak."""
        moments = [now if self.by_clock else now + index for index in range(count)]
        length = self.cycle_stop - self.cycle_start
        return [relative_rate((moment - self.cycle_start) / length) for moment in moments]


@dataclasses.dataclass(frozen=True)
class Course:
    """How long members are trained, and when they are looked at.

    Attributes:
        steps: mini-batches.
        batch_size: examples of each.
        cycles: shares of the steps; each is a warm-up and a cosine down to zero.
        validations: how often held-out examples are looked at besides the ends of cycles.
        patience: validations in a row without anything better that end a training; 0: none do.
        seconds: of wall-clock time without compilation, instead of steps; results then depend on
            the machine and on what else it does.
    """

    steps: int
    batch_size: int
    cycles: tuple[float, ...] = (1.0,)
    validations: int = 0
    patience: int = 0
    seconds: float | None = None

    @property
    def interval(self) -> int:
        """Steps from one of the validations to the next."""
        return math.ceil(self.steps / self.validations) if self.validations else self.steps

    def stretches(self, members: int = 1) -> list[Stretch]:
        """Returns its stretches in order; members side by side spend their seconds together."""
        shares = [share / sum(self.cycles) for share in itertools.accumulate(self.cycles)]
        if self.seconds is not None:
            ends = [0.0, *(self.seconds * members * share for share in shares)]
            return [Stretch(stop, start, stop, True) for start, stop in itertools.pairwise(ends)]
        ends = [0]
        for share in shares:  # each cycle has a step at least
            ends.append(max(ends[-1] + 1, round(self.steps * share)))
        found, every = [], self.interval
        for start, stop in itertools.pairwise(ends):
            inner = [step for step in range(every, stop, every) if step > start]
            found += [Stretch(step, start, stop) for step in (*inner, stop)]
        return found


class Validation(NamedTuple):
    """What held-out examples said at some moment."""

    step: int  # how many had been taken
    means: Mapping[str, float]  # of each of the task's measures
    ends_cycle: bool  # whether the learning rate had gone down to zero
    training_loss: float  # mean over the steps since the validation before


def falling_percent_per_doubling(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> float:
    """Returns by how many percent the held-out error fell per doubling of training at its end.

    Of fewer than two cycles nothing is known, which counts as 100. `error` is `tasks.Task`'s.
    """
    ends = cycle_ends(history, error)
    if len(ends) < 2:
        return 100.0
    (earlier, before), (later, after) = ends[-2:]
    return 100 * (1 - (after / before) ** (1 / math.log2(later / earlier)))


def cycle_ends(
    history: Sequence[Validation], error: Callable[[Mapping[str, float]], float]
) -> list[tuple[int, float]]:
    """Returns (steps, held-out error) wherever the learning rate had gone down to zero."""
    return [(moment.step, error(moment.means)) for moment in history if moment.ends_cycle]


def not_converged(who: str, falling: Sequence[float]) -> str:
    """Says that attackers had not converged, whose errors fell by so many percent per doubling.

    100 says nothing, and what counts as converged that not every pair was seen: both are too short.
    """
    known = [percent for percent in falling if CONVERGED_PERCENT < percent < 100]
    ends = " to ".join(dict.fromkeys(f"{end(known):.0f}" for end in (min, max) if known))
    counted = f"where {CONVERGED_PERCENT:g} % counts as converged"
    fell = f"its error still fell by {ends} % per doubling of its training, {counted}"
    reasons = [fell] * bool(known)
    reasons += ["its training was too short to tell"] * (len(known) < len(falling))
    return (
        f"{who} had not converged ({'; or '.join(reasons)}): privacy loss there is a lower "
        "estimate, and more steps find more."
    )


def without_progress(scores: Sequence[tuple[float, ...]]) -> int:
    """Returns how many validations there were since any number of the scores was the best ever."""
    best = [-math.inf] * (len(scores[0]) if scores else 0)
    count = 0
    for score in scores:
        count = 0 if any(new > old for new, old in zip(score, best, strict=True)) else count + 1
        best = [max(pair) for pair in zip(score, best, strict=True)]
    return count
