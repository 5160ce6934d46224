"""Chooses the local topology with the best accuracy under limits, and says what decided.

`options` says what may be expected of every (layers, depth); `explanation` puts a `Decision` into
words. Pure numbers, no JAX here.

    decision = choose(options_of(results, 32, "mean"), Limits(psnr_db=22.0, local_mmacs=160.0))
    decision.chosen      # the best feasible option; None where nothing fits
    decision.binding     # the limits whose removal alone would allow a better one
    decision.remedies    # where nothing fits: the smallest change of one limit that helps
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from privynet_jax.errors import UserError
from privynet_jax.planning.options import Option
from privynet_jax.planning.plan import LIMITS, Limits

# An audit trains other attackers for longer than the characterisation did: what is promised must
# hold for them too, so expected privacy loss must stay this far under its limit.
MARGIN_DB, MARGIN_SSIM = 2.0, 0.02
# One notch of each limit: a step that a user would try, in the limit's unit or as a share of it.
NOTCHES: Mapping[str, float] = {"psnr_db": 1.0, "ssim": 0.05}
COST_NOTCH = 0.25
# An option is nearly feasible when it misses every limit by no more than this.
NEAR_NOTCHES = 1.0
# Digits after the point with which a limit is proposed.
_DIGITS = {"psnr_db": 2, "ssim": 3}
_COST_DIGITS = 2


@dataclasses.dataclass(frozen=True)
class Shortfall:
    """A limit that an option does not keep.

    Attributes:
        limit: of `plan.LIMITS`.
        value: the limit as given.
        needed: the limit under which the option would fit, rounded up to what one would type.
        notches: how many notches that is.
    """

    limit: str
    value: float
    needed: float
    notches: float


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """An option with more accuracy than the chosen one, and what keeps it from being chosen."""

    option: Option
    shortfalls: tuple[Shortfall, ...]


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """What relaxing one limit by one notch buys.

    Attributes:
        limit: of `plan.LIMITS`.
        relaxed: the limit one notch further.
        chosen: what would be chosen then; None where still nothing fits.
        gain: its expected accuracy minus the chosen option's (minus 0 where there is none).
    """

    limit: str
    relaxed: float
    chosen: Option | None
    gain: float


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was chosen, and why.

    Attributes:
        options: all of them.
        limits: what was asked for.
        margins: of "psnr_db" and "ssim": how far under the limit the interval's end must stay.
        feasible: those that keep all limits, the best first.
        binding: limits whose removal alone would give more accuracy, or anything at all.
        relaxations: one per limit.
        near_misses: the nearest first.
        impossible: where nothing fits, the smallest sets of limits that no option keeps together.
        remedies: where nothing fits, the changes of one limit that suffice, the smallest first; or
            the changes of several, all needed, where no single one does (`remedy_is_joint`).
    """

    options: tuple[Option, ...]
    limits: Limits
    margins: Mapping[str, float]
    feasible: tuple[Option, ...]
    binding: tuple[str, ...]
    relaxations: tuple[Relaxation, ...]
    near_misses: tuple[NearMiss, ...]
    impossible: tuple[tuple[str, ...], ...] = ()
    remedies: tuple[Shortfall, ...] = ()
    remedy_is_joint: bool = False

    @property
    def chosen(self) -> Option | None:
        """The feasible option with the best expected accuracy."""
        return self.feasible[0] if self.feasible else None


def choose(
    options: Sequence[Option],
    limits: Limits,
    margin_db: float = MARGIN_DB,
    margin_ssim: float = MARGIN_SSIM,
) -> Decision:
    """Returns the best option under limits, with what decided.

    An option is feasible when the upper ends of its intervals of privacy loss, plus the margins,
    and its costs are within their limits. A latency that was not measured is not held against it.

    Args:
        options: as `options.options_of` gives them; at least one.
        limits: what to keep to.
        margin_db: added to expected PSNR before it is compared, in dB.
        margin_ssim: likewise for SSIM.

    Raises:
        UserError: a margin is negative or not finite.
    """
    margins = {"psnr_db": margin_db, "ssim": margin_ssim}
    for name, margin in margins.items():
        if not 0 <= margin < math.inf:
            raise UserError(
                f"the margin of {name} is {margin}; allowed are 0 and more; "
                "leave it out for the usual one"
            )
    case = _Case(tuple(sorted(options, key=lambda option: option.rank)), limits.given(), margins)
    feasible = case.feasible()
    accuracy = feasible[0].expected.accuracy.value if feasible else -math.inf
    remedies, is_joint = ((), False) if feasible else case.remedies()
    return Decision(
        options=case.options,
        limits=limits,
        margins=margins,
        feasible=feasible,
        binding=tuple(n for n in case.limits if case.best_accuracy(without=n) > accuracy),
        relaxations=tuple(case.relaxation(name) for name in case.limits),
        near_misses=case.near_misses(accuracy),
        impossible=() if feasible else case.impossible(),
        remedies=remedies,
        remedy_is_joint=is_joint,
    )


def choose_measured(
    options: Sequence[Option],
    limits: Limits,
    measure: Callable[[Option], float],
    margin_db: float = MARGIN_DB,
    margin_ssim: float = MARGIN_SSIM,
) -> Decision:
    """Returns `choose` once the chosen option's latency is measured, where that is limited.

    Options that are feasible in everything else are measured, the best first, until one fits: the
    others' latency decides nothing.

    Args:
        options: at least one.
        limits: what to keep to.
        measure: an option -> milliseconds.
        margin_db: see `choose`.
        margin_ssim: likewise.
    """
    while True:
        decision = choose(options, limits, margin_db, margin_ssim)
        chosen = decision.chosen
        if chosen is None or limits.latency_ms is None or "latency_ms" in chosen.cost:
            return decision
        options = with_latency(options, chosen, measure(chosen))


def with_latency(options: Sequence[Option], which: Option, latency_ms: float) -> list[Option]:
    """Returns the options with the measured latency of one of them among its costs."""
    cost = {**which.cost, "latency_ms": latency_ms}
    return [
        dataclasses.replace(option, cost=cost) if option is which else option for option in options
    ]


def notch(limit: str, value: float) -> float:
    """Returns the size of one notch of a limit, in its unit."""
    return NOTCHES.get(limit, COST_NOTCH * value)


@dataclasses.dataclass(frozen=True)
class _Case:
    """Options, the best first, with limits by name and margins: what all questions are about."""

    options: tuple[Option, ...]
    limits: Mapping[str, float]
    margins: Mapping[str, float]

    def need(self, option: Option, limit: str) -> float:
        """The least limit that the option keeps; minus infinity for a latency nobody measured."""
        if limit in self.margins:
            return getattr(option.expected, limit).high + self.margins[limit]
        return option.cost.get(limit, -math.inf)

    def feasible(self, limits: Mapping[str, float] | None = None) -> tuple[Option, ...]:
        limits = self.limits if limits is None else limits
        return tuple(
            option
            for option in self.options
            if all(self.need(option, name) <= value for name, value in limits.items())
        )

    def best_accuracy(self, without: str) -> float:
        others = {name: value for name, value in self.limits.items() if name != without}
        return max((o.expected.accuracy.value for o in self.feasible(others)), default=-math.inf)

    def relaxation(self, limit: str) -> Relaxation:
        relaxed = self.limits[limit] + notch(limit, self.limits[limit])
        before = [o.expected.accuracy.value for o in self.feasible()[:1]]
        after = self.feasible({**self.limits, limit: relaxed})[:1]
        gain = sum(o.expected.accuracy.value for o in after) - sum(before)
        return Relaxation(limit, relaxed, after[0] if after else None, gain)

    def shortfalls(self, option: Option) -> tuple[Shortfall, ...]:
        found = []
        for limit, value in self.limits.items():
            if (need := self.need(option, limit)) > value:
                needed = _rounded_up(limit, need)
                found.append(
                    Shortfall(limit, value, needed, (needed - value) / notch(limit, value))
                )
        return tuple(found)

    def near_misses(self, accuracy: float) -> tuple[NearMiss, ...]:
        misses = [NearMiss(option, self.shortfalls(option)) for option in self.options]
        near = [
            miss
            for miss in misses
            if miss.shortfalls
            and miss.option.expected.accuracy.value > accuracy
            and all(shortfall.notches <= NEAR_NOTCHES for shortfall in miss.shortfalls)
        ]
        return tuple(sorted(near, key=lambda miss: _notches(miss.shortfalls)))

    def impossible(self) -> tuple[tuple[str, ...], ...]:
        for size in range(1, len(self.limits) + 1):
            together = [
                names
                for names in itertools.combinations(self.limits, size)
                if not self.feasible({name: self.limits[name] for name in names})
            ]
            if together:
                return tuple(together)
        return ()

    def remedies(self) -> tuple[tuple[Shortfall, ...], bool]:
        """Changes of one limit, the smallest per limit; else the fewest notches of several."""
        missed = [self.shortfalls(option) for option in self.options]
        single = [shortfalls[0] for shortfalls in missed if len(shortfalls) == 1]
        if not single:
            return min(missed, key=_notches, default=()), True
        least = {
            limit: min((s for s in single if s.limit == limit), key=lambda s: s.needed)
            for limit in {s.limit for s in single}
        }
        return tuple(
            sorted(least.values(), key=lambda s: (s.notches, LIMITS.index(s.limit)))
        ), False


def _notches(shortfalls: Sequence[Shortfall]) -> float:
    return sum(shortfall.notches for shortfall in shortfalls)


def _rounded_up(limit: str, need: float) -> float:
    digits = _DIGITS.get(limit, _COST_DIGITS)
    rounded = round(math.ceil(need * 10**digits) / 10**digits, digits)
    # Rounding of the product may fall on the wrong side of the number it came from.
    return rounded if rounded >= need else round(rounded + 10**-digits, digits)
