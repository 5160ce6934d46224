"""Chooses the local topology with the best balanced accuracy under limits; says what decided.

`options` says what may be expected of every (layers, depth); `explanation` puts a `Decision` into
words. Pure numbers, no JAX here.

    decision = choose(options_of(results, 32, "mean"), Limits(psnr_db=22.0, local_mmacs=160.0))
    decision.chosen      # the best feasible option; None where nothing fits
    decision.binding     # the limits whose removal alone would allow a better one
    decision.remedies    # where nothing fits: the smallest change of one limit that helps
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from privynet_jax.errors import UserError
from privynet_jax.planning.options import Option
from privynet_jax.planning.plan import EPSILON, LIMITS, Limits

# An audit trains other attackers for longer than the characterisation did: what is promised must
# hold for them too, so expected privacy loss must stay this far under its limit.
MARGINS: Mapping[str, float] = {"psnr_db": 2.0, "ssim": 0.02}
# One notch of each limit: a step that a user would try, in the limit's unit or as a share of it.
NOTCHES: Mapping[str, float] = {"psnr_db": 1.0, "ssim": 0.05}
COST_NOTCH = 0.25
# An option is nearly feasible when it misses every limit by no more than this.
NEAR_NOTCHES = 1.0
# Limit -> digits after the point with which it is shown and proposed.
DIGITS: Mapping[str, int] = {**dict.fromkeys(LIMITS, 2), "ssim": 3}


@dataclasses.dataclass(frozen=True)
class Shortfall:
    """A limit that an option does not keep."""

    limit: str  # of `plan.LIMITS`
    value: float  # as given
    needed: float  # under which the option would fit, rounded up to what one would type
    notches: float  # from one to the other


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is chosen, and why."""

    options: tuple[Option, ...]  # all of them, the best first
    limits: Limits  # what was asked for
    margins: Mapping[str, float]  # how far under its limit an interval's end must stay

    @functools.cached_property
    def feasible(self) -> tuple[Option, ...]:
        """Those that keep all limits, the best first."""
        given = self.limits.given().items()
        return tuple(
            o for o in self.options if all(least_limit(o, n, self.margins) <= v for n, v in given)
        )

    @property
    def chosen(self) -> Option | None:
        """The feasible option with the best expected balanced accuracy."""
        return self.feasible[0] if self.feasible else None

    @property
    def merit(self) -> float:
        """Of the chosen option; minus infinity where nothing fits."""
        return self.chosen.merit if self.chosen else -math.inf

    @property
    def binding(self) -> tuple[str, ...]:
        """Limits whose removal alone would give more merit, or anything at all."""
        given = self.limits.given()
        return tuple(n for n in given if self._with(**{n: None}).merit > self.merit)

    @property
    def near_misses(self) -> tuple[Option, ...]:
        """Better options that miss no limit by more than `NEAR_NOTCHES`, the nearest first."""
        better = [o for o in self.options if o.merit > self.merit]
        near = [o for o in better if all(s.notches <= NEAR_NOTCHES for s in self.shortfalls(o))]
        return tuple(sorted(near, key=lambda option: _notches(self.shortfalls(option))))

    @property
    def impossible(self) -> tuple[tuple[str, ...], ...]:
        """The smallest sets of limits that no option keeps together; none where something fits."""
        given = self.limits.given()
        for size in range(1, len(given) + 1):
            together = tuple(
                names
                for names in itertools.combinations(given, size)
                if not self._with(**dict.fromkeys(given.keys() - names)).feasible
            )
            if together:
                return together
        return ()

    @property
    def remedies(self) -> tuple[Shortfall, ...]:
        """Where nothing fits, the changes of one limit that suffice, the smallest first.

        Where no single one does (`remedy_is_joint`), the changes of several, all needed.
        """
        if self.feasible:
            return ()
        missed = self._missed
        if self.remedy_is_joint:
            return min(missed, key=_notches)
        least: dict[str, Shortfall] = {}
        single = [shortfalls[0] for shortfalls in missed if len(shortfalls) == 1]
        for shortfall in sorted(single, key=lambda s: (s.notches, LIMITS.index(s.limit))):
            least.setdefault(shortfall.limit, shortfall)
        return tuple(least.values())

    @property
    def remedy_is_joint(self) -> bool:
        """Whether every option misses several limits."""
        return all(len(shortfalls) > 1 for shortfalls in self._missed)

    @property
    def _missed(self) -> list[tuple[Shortfall, ...]]:
        """What each option falls short of; without those that no value of a limit would help."""
        missed = [self.shortfalls(option) for option in self.options]
        return [each for each in missed if _notches(each) < math.inf]

    def relaxed(self, limit: str) -> "Decision":
        """Returns the decision with one limit a notch further."""
        value = getattr(self.limits, limit)
        return self._with(**{limit: value + notch(limit, value)})

    def next_value(self, limit: str) -> "Decision | None":
        """Returns the decision at the least value of one limit that allows a better option.

        None where no value of it does, whatever the other limits leave.
        """
        without = self._with(**{limit: None})
        better = [o for o in without.feasible if o.merit > self.merit]
        needs = [least_limit(o, limit, self.margins) for o in better]
        needs = [need for need in needs if need < math.inf]
        if not needs:
            return None
        # As it would be typed; a better one yet may need no more than that.
        return self._with(**{limit: _rounded_up(min(needs), DIGITS[limit])})

    def shortfalls(self, option: Option) -> tuple[Shortfall, ...]:
        """Returns the limits that an option does not keep."""
        found = []
        for limit, value in self.limits.given().items():
            if (need := least_limit(option, limit, self.margins)) > value:
                needed = _rounded_up(need, DIGITS[limit])
                notches = (needed - value) / notch(limit, value)
                found.append(Shortfall(limit, value, needed, notches))
        return tuple(found)

    def _with(self, **limits: float | None) -> "Decision":
        return dataclasses.replace(self, limits=dataclasses.replace(self.limits, **limits))


def least_limit(option: Option, limit: str, margins: Mapping[str, float]) -> float:
    """Returns the least limit that an option keeps; minus infinity for an unmeasured latency.

    Infinity is that of epsilon where the mechanism guarantees nothing.
    Of privacy loss it is what is held against it plus the margin. Where that is an expectation's
    upper end, it is also at least what attackers would reach whose training is ten times as long.
    """
    if limit not in margins:
        return option.cost.get(limit, math.inf if limit == EPSILON else -math.inf)
    if option.held is not None:
        return option.held[limit] + margins[limit]
    least = getattr(option.expected, limit).high + margins[limit]
    further = option.expected.psnr_db_limit if limit == "psnr_db" else None
    return max(least, further.high) if further else least


def choose(
    options: Sequence[Option], limits: Limits, margins: Mapping[str, float] = MARGINS
) -> Decision:
    """Returns what is chosen of options, at least one, and why.

    An option is feasible when all that it needs (`least_limit`) is within the
    limits. A latency that was not measured is not held against it.
    Raises UserError where a margin is negative or not finite.
    """
    for name, margin in margins.items():
        if not 0 <= margin < math.inf:
            raise UserError(
                f"the margin of {name} is {margin}; allowed are 0 and more; "
                "leave it out for the usual one"
            )
    return Decision(tuple(sorted(options, key=lambda option: option.rank)), limits, margins)


def choose_measured(
    options: Sequence[Option],
    limits: Limits,
    margins: Mapping[str, float],
    measure: Callable[[Option], Option],
) -> Decision:
    """Returns `choose` once the chosen option is one that was measured, if any is.

    `measure` takes an option to what it is found to be. Options that are feasible as far as is
    known are measured, the best first and each once, until one fits: the others decide nothing.
    Where privacy loss was measured, others of the layer are expected to lose as much more.
    """
    measured: set[tuple[int, int, str]] = set()
    while True:
        decision = choose(options, limits, margins)
        chosen = decision.chosen
        if chosen is None or chosen.place in measured:
            return decision
        measured.add(chosen.place)
        found = measure(chosen)
        options = [found if option is chosen else _informed(option, found) for option in options]


def unmeasured(options: Sequence[Option]) -> list[Option]:
    """Returns options as candidates for being measured: with the least that they can be hoped for.

    Channels are found by attackers who need no pairs, so those lose no less than is expected.
    """
    return [dataclasses.replace(o, held=_expected(o)) for o in options]


def _informed(option: Option, found: Option) -> Option:
    """The option with what another one's measurement lets one expect of it.

    Attackers who find one option's channels find those of the layer's others too, under the same
    mechanism.
    """
    alike = (option.num_layers, option.mechanism) == (found.num_layers, found.mechanism)
    if option.measured or not found.measured or not alike:
        return option
    own, its = _expected(option), _expected(found)
    held = {m: own[m] + max(0.0, getattr(found.measured, m) - its[m]) for m in own}
    return dataclasses.replace(option, held=held)


def _expected(option: Option) -> dict[str, float]:
    return {metric: getattr(option.expected, metric).value for metric in MARGINS}


def notch(limit: str, value: float) -> float:
    """Returns the size of one notch of a limit, in its unit."""
    return NOTCHES.get(limit, COST_NOTCH * value)


def _notches(shortfalls: Sequence[Shortfall]) -> float:
    return sum(shortfall.notches for shortfall in shortfalls)


def _rounded_up(need: float, digits: int) -> float:
    if math.isinf(need):
        return need
    rounded = round(math.ceil(need * 10**digits) / 10**digits, digits)
    # Rounding of the product may fall on the wrong side of the number it came from.
    return rounded if rounded >= need else round(rounded + 10**-digits, digits)
