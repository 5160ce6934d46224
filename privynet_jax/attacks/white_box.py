"""White-box optimisation: the image whose representation matches, found by descent.

For an attacker who knows the local NN with its channels. Another attack, fitted on the same pairs,
says where to start; what to trust how much, the representation, smoothness or that start, is tuned
per topology on images that the attacker owns. `matching` optimises, `pixel_prior` has the prior.

    attack = WhiteBox(warm_start=LinearInversion())
    [fitted] = attack.fit([scene.pairs()], [scene.knowledge(EVERYTHING)], [jax.random.key(0)])
    fitted.reconstruct(representations), fitted.report["tv_weight"]

Without total variation and prior it is He et al.'s maximum likelihood, with the former their rMLE.
Whichever is nearer to held-out images of the attacker's by PSNR is its answer, the result or the
warm start; and whichever is more like them by SSIM where likeness is asked for: where both are as
near, one has edges that the other has blurred.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    Attack,
    FittedAttack,
    Knowledge,
    Pairs,
    Representing,
    diverged,
)
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.matching import Matched, Matcher, Weights
from privynet_jax.attacks.pixel_prior import fit_prior
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.metrics import psnr_db, ssim
from privynet_jax.images.parts import as_float
from privynet_jax.platform.rows.row_views import ChosenRows
from privynet_jax.training.convergence import CONVERGED_PERCENT
from privynet_jax.training.extrapolation import Gain, gain_from

# Weights that compete at first; what wins is refined by the factor below.
TV_WEIGHTS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4)
PRIOR_WEIGHTS = (0.0, 1e-2, 1e-1, 1.0, 1e1)
_REFINEMENT = 10**0.5
# Falls below this share of the loss at the warm start are rounding.
_NEGLIGIBLE = 1e-6
# The second half of the steps is left out where it adds less dB on own images, and so many are
# taken again where it adds more.
_WORTH_DB, _GOES_ON_DB = 0.02, 0.2
# Candidates that are left after each round: with few images each they fill batches of 32.
_LEFT, _FINALISTS = 8, 2
# What a closed form gains by training.
_NOTHING = Gain(0.0, 0.0, 0.0)


class Choice(NamedTuple):
    """Weights of total variation and of the prior around the warm start, relative to the misfit."""

    tv_weight: float
    prior_weight: float


class Better(NamedTuple):
    """By which metrics optimised images are better than the warm start's."""

    psnr_db: bool
    ssim: bool


@dataclasses.dataclass(frozen=True)
class WhiteBox:
    """White-box optimisation; tuning costs as much as attacking some 130 images.

    Attributes:
        warm_start: fitted on most of the pairs; its estimates are where images start, and what the
            prior lies around.
        steps: gradients that are computed per image; half of them where more add nothing on own
            images, and twice as many where they add much,
        doublings: up to so often.
        tuning_images: of the held-out pairs, those that the last candidates compete on; multiples
            of 16 fill batches of 32.
        name: what results call it.
    """

    warm_start: Attack = dataclasses.field(default_factory=LinearInversion)
    steps: int = 150
    tuning_images: int = 32
    doublings: int = 1
    name: str = "white box"
    knowledge: str = EVERYTHING
    optimises_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 2 or self.tuning_images < 1:
            raise UserError(
                f"{self.steps} steps and {self.tuning_images} tuning images; allowed are 2 or more "
                "steps and 1 or more images; give more"
            )

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Fits the warm starts side by side, and tunes the weights; see `base.Attack.fit`."""
        for known in knowledge:
            if known.local is None:
                raise UserError(
                    f"the attack {self.name} was given the knowledge {known.name!r}, but needs the "
                    "local NN itself; give 'everything'"
                )
        parts = [map(pairs.chosen, pairs.hold_out()) for pairs in scenes]
        mine, held = zip(*parts, strict=True)
        started = self.warm_start.fit(mine, knowledge, keys)
        local = [known.local for known in knowledge]
        return [self.starting_from(*each) for each in zip(started, held, local, strict=True)]

    def starting_from(
        self,
        warm: FittedAttack,
        held_out: Pairs,
        local: Representing,
        estimates: np.ndarray | None = None,
    ) -> FittedAttack:
        """Weighs the terms of the loss by pairs that a fitted warm start was not fitted on.

        Estimates, float [N, H, W, 3], are the warm start's of these pairs, where they are at hand.
        """
        # One of each image's copies: the weights are for many images.
        rows = np.arange(0, len(held_out.images), held_out.copies)
        representations = np.asarray(held_out.representations[rows])
        if estimates is None:
            try:
                estimates = warm.reconstruct(representations)
            except DivergedError as error:
                return diverged(str(error))
        else:
            estimates = estimates[rows]
        truth = as_float(held_out.images[rows])
        count = min(self.tuning_images, len(truth))
        # The spectrum of errors comes from other images than the weights, if there are enough.
        others = slice(count if len(truth) >= 2 * count else 0, None)
        matcher = Matcher(local, fit_prior(truth[others] - estimates[others]))
        known = (representations[:count], estimates[:count])
        choice, better, found = _Tuning(
            matcher, known, truth[:count], self.steps, self.doublings
        ).best()

        def optimised(representations: np.ndarray) -> np.ndarray:
            starts = warm.reconstruct(representations)
            if not len(representations):
                return starts
            weights = _weights(len(representations), [choice])
            return matcher(representations, starts, weights, found["steps"]).images

        nearest, likest = (optimised if own else warm.reconstruct for own in better)
        report = self._report(choice if better.psnr_db else None, found, warm)
        return FittedAttack(nearest, report, likest if len({*better}) > 1 else None)

    def _report(
        self, choice: Choice | None, found: Mapping[str, float], warm: FittedAttack
    ) -> dict[str, str | float | int | bool]:
        # Where the warm start does best, its answer is given, whatever became of the optimisation.
        falling = (found if choice else warm.report).get("falling_percent_per_doubling", 0.0)
        # What starts from an unfinished attack may still gain from finishing that.
        converged = warm.report.get("converged", True)
        # Half of the steps is taken where the other half adds nothing, whatever becomes of losses.
        ended = falling <= CONVERGED_PERCENT or not choice or found["last_doubling_db"] < _WORTH_DB
        return {
            "warm_start": self.warm_start.name,
            **(choice or Choice(0.0, float("inf")))._asdict(),
            # L-BFGS finds its own; 1 is a full step of Newton's method.
            "learning_rate": 1.0,
            **found,
            "steps": found["steps"] if choice else 0,
            "falling_percent_per_doubling": float(falling),
            "converged": bool(converged and ended),
            "gain_db": _gain_db(choice, found["last_doubling_db"], warm),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class _Tuning:
    """Weights compete on images whose truth the attacker owns, by successive halving."""

    matcher: Matcher
    known: tuple[np.ndarray, np.ndarray]  # representations and starts
    truth: np.ndarray
    steps: int
    doublings: int

    def best(self) -> tuple[Choice, Better, dict[str, float]]:
        """Returns the weights that do best, in what that is better, and what was found."""
        steps, count, left = self.steps, len(self.truth), self._finalists()
        matched = self._match(left, count, steps)
        winner = int(np.argmax(self._psnr_db(matched.images, len(left))))
        own, winner = slice(winner * count, (winner + 1) * count), left[winner]
        matched = jax.tree.map(lambda x: x[own], matched)
        for _ in range(self.doublings):
            if self._added_db(matched) < _GOES_ON_DB:
                break
            steps *= 2
            matched = self._match([winner], count, steps)
        starts, added_db = np.clip(np.float32(self.known[1]), 0, 1), self._added_db(matched)
        [start_db], [half_db], [all_db] = map(
            self._psnr_db, (starts, matched.halfway, matched.images)
        )
        pays = added_db >= _WORTH_DB
        reached, reached_db = (matched.images, all_db) if pays else (matched.halfway, half_db)
        before, after = (float(np.mean(ssim(x, self.truth))) for x in (starts, reached))
        better = Better(bool(reached_db > start_db), after > before)
        found = {
            "steps": steps if pays else max(1, steps // 2),
            "warm_start_held_out_psnr_db": float(start_db),
            "held_out_psnr_db": float(reached_db if better.psnr_db else start_db),
            "last_doubling_db": added_db,
            "falling_percent_per_doubling": _falling_percent_per_doubling(*matched.losses),
        }
        return winner, better, found

    def _added_db(self, matched: Matched) -> float:
        """By what the second half of the steps made images better."""
        [half], [whole] = map(self._psnr_db, (matched.halfway, matched.images))
        return float(whole - half)

    def _finalists(self) -> list[Choice]:
        """The weights that do best by few images and steps, which would be too few to judge by."""
        count = len(self.truth)
        few, some = min(count, max(2, count // 8)), min(count, max(4, count // 4))
        grid = [Choice(*pair) for pair in itertools.product(TV_WEIGHTS, PRIOR_WEIGHTS)]
        left = self._ranked(grid, few, self.steps // 8)[:_LEFT]
        left = self._ranked(left, some, self.steps // 4)
        near = _distinct([*_around(left[0]), *left[1:]])[:_LEFT]
        # At shallow layers, fewer steps would favour more of total variation than more steps need.
        first, *others = self._ranked(near, some, self.steps // 2)
        # And a prior around the start, which wins early and ends early.
        return _distinct([first, Choice(first.tv_weight, 0.0), *others])[:_FINALISTS]

    def _ranked(self, choices: Sequence[Choice], count: int, steps: int) -> list[Choice]:
        """The choices, best first, by so many images and steps."""
        found = self._match(choices, count, max(2, steps))
        scores = self._psnr_db(found.images, len(choices))
        return [choices[i] for i in np.argsort(-scores, kind="stable")]

    def _match(self, choices: Sequence[Choice], count: int, steps: int) -> Matched:
        """All choices on the first images side by side: [choices * count, ...]."""
        rows = np.tile(np.arange(count), len(choices))
        known = (ChosenRows(x, rows) for x in self.known)
        return self.matcher(*known, _weights(count, choices), steps)

    def _psnr_db(self, images: np.ndarray, choices: int = 1) -> np.ndarray:
        """The mean of each choice, whose images are of the first true ones: [choices]."""
        truth = np.tile(self.truth[: len(images) // choices], (choices, 1, 1, 1))
        found = np.asarray(psnr_db(np.float32(images), truth))
        return found.reshape(choices, -1).mean(axis=1)


def _gain_db(choice: Choice | None, doubling_db: float, warm: FittedAttack) -> Gain | None:
    """What ten times the training and steps would add; None where the warm start cannot tell."""
    of_start = warm.report.get("gain_db", _NOTHING)
    return gain_from(of_start, doubling_db) if choice and of_start else of_start


def _weights(count: int, choices: Sequence[Choice]) -> Weights:
    """The weights of all images, for one choice after another."""
    columns = np.float32(choices).T
    return Weights(*(np.repeat(column, count) for column in columns))


def _around(choice: Choice) -> list[Choice]:
    """A choice and those beside it."""
    tv, prior = choice
    factors = (_REFINEMENT, 1 / _REFINEMENT)
    beside = [Choice(tv * f, prior) for f in factors] + [Choice(tv, prior * f) for f in factors]
    return _distinct([choice, *beside])


def _distinct(choices: Sequence[Choice]) -> list[Choice]:
    """The first of those that are equal, or differ by the rounding of a factor and its inverse."""
    found: dict[tuple[str, ...], Choice] = {}
    for choice in choices:
        found.setdefault(tuple(f"{weight:.6g}" for weight in choice), choice)
    return list(found.values())


def _falling_percent_per_doubling(*losses: np.ndarray) -> float:
    """By how much losses fell between half and all of the steps: their geometric mean."""
    first, middle, last = map(np.float64, losses)
    least = _NEGLIGIBLE * first + np.finfo(np.float64).tiny
    return float(100 * (1 - np.exp(np.mean(np.log((last + least) / (middle + least))))))
