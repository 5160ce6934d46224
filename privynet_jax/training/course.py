"""How long networks are trained, how fast, and when they are looked at.

for stretch in Course(steps=300, batch_size=32, cycles=(0.3, 0.7)).stretches():
    stretch.rate(now=stretch.cycle_start)
"""

import dataclasses
import itertools
import math

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
    """Steps between two validations; all numbers are steps, or seconds."""

    stop: float
    cycle_start: float
    cycle_stop: float

    @property
    def ends_cycle(self) -> bool:
        """Whether the learning rate is zero at its end."""
        return self.stop == self.cycle_stop

    def rate(self, now: float) -> float:
        """Returns the learning rate at a step, or second, relative to its peak."""
        return relative_rate((now - self.cycle_start) / (self.cycle_stop - self.cycle_start))


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

    def stretches(self) -> list[Stretch]:
        """Returns the stretches of which it consists, in order."""
        shares = [share / sum(self.cycles) for share in itertools.accumulate(self.cycles)]
        if self.seconds is not None:
            ends = [self.seconds * share for share in shares]
            return [Stretch(stop, start, stop) for start, stop in itertools.pairwise([0.0, *ends])]
        ends = [0]
        for share in shares:  # each cycle has a step at least
            ends.append(max(ends[-1] + 1, round(self.steps * share)))
        every = math.ceil(self.steps / self.validations) if self.validations else self.steps
        found = []
        for start, stop in itertools.pairwise(ends):
            inner = [step for step in range(every, stop, every) if step > start]
            found += [Stretch(step, start, stop) for step in (*inner, stop)]
        return found
