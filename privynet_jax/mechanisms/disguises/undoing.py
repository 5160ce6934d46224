"""Attacks that undo a disguise first, as far as they know how, and then rebuild what is left.

attack = seen_through(LeastSquares(block=4), network)
[fitted] = attack.fit([pairs], [Knowledge(PAIRS)], [key])
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    Attack,
    FittedAttack,
    Knowledge,
    Pairs,
    check_pairs,
)
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT, Mechanism

# Pictures that are undone at once.
_AT_ONCE = 256


class Undone(NamedTuple):
    """How an attacker undoes a disguise, and what it then learns the rest from.

    Attributes:
        undo: released float32 [N, H, W, D] -> what is left of it, float32 [N, H, W, E], in units of
            `PICTURE_UNIT` as releases are.
        pairs: of the same form; images with what would be left of them.
        report: what was found, for results.
    """

    undo: Callable[[np.ndarray], np.ndarray]
    pairs: Pairs
    report: dict[str, Any]


class Undoing(Protocol):
    """A way to undo a disguise: its name, and what it needs, one of `base.KNOWLEDGE`."""

    name: str
    knowledge: str

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Finds out how, from what an attacker of this knowledge has."""
        ...


@dataclasses.dataclass(frozen=True)
class SeenThrough:
    """An attack on what is left of releases that were undone."""

    name: str
    knowledge: str
    undoing: Undoing
    attack: Attack
    least_pairs: ClassVar[int] = 8  # some for undoing, and some to train and to judge by

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Undoes each by itself, then fits all side by side; see `attacks.base.Attack.fit`."""
        check_pairs(self.name, scenes, self.least_pairs)
        keys = [jax.random.split(key) for key in keys]
        given = zip(scenes, knowledge, (own for own, _ in keys), strict=True)
        undone = [self.undoing.learnt(*each) for each in given]
        left = [own.pairs for own in undone]
        fitted = self.attack.fit(left, knowledge, [other for _, other in keys])
        return [
            one.after(own.undo, {**one.report, **own.report})
            for own, one in zip(undone, fitted, strict=True)
        ]


def seen_through(undoing: Undoing, attack: Attack) -> SeenThrough:
    """Returns the attack that is named by what it undoes, and has its class."""
    name = f"{undoing.name}, then {attack.name}"
    return SeenThrough(name, undoing.knowledge, undoing, attack)


@dataclasses.dataclass(frozen=True)
class BySecret:
    """Undoes with the secret itself, for an attacker of class `leak`."""

    mechanism: Mechanism
    name: str = "secret"
    knowledge: str = EVERYTHING

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Undoes the attacker's own pairs as well."""
        if known.secret is None:
            raise UserError(f"{self.mechanism} is undone by its secret; give knowledge of it")

        @jax.jit
        def undo_some(released: jax.Array) -> jax.Array:
            undone = jax.vmap(lambda x: self.mechanism.undone(known.secret, x))
            return undone(PICTURE_UNIT * released) / PICTURE_UNIT

        undo = functools.partial(in_batches, undo_some)
        left = undo(np.float32(pairs.representations[:]))
        return Undone(undo, Pairs(left, pairs.images, pairs.copies), {})


def in_batches(function: Callable[[np.ndarray], np.ndarray], released: np.ndarray) -> np.ndarray:
    """Returns a function of releases float [N, H, W, D], taken of some at once."""
    starts = range(0, max(1, len(released)), _AT_ONCE)
    return np.concatenate([function(released[s : s + _AT_ONCE]) for s in starts])
