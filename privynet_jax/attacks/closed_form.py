"""Attacks that need no training: ridge regression on neighbourhoods, and answering the mean image.

    fitted = LinearInversion().fit(pairs, Knowledge(PAIRS), jax.random.key(0))
    fitted.reconstruct(representations)

The mean image is no attack: it is what an attack must beat to have learnt anything at all.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import Knowledge, Pairs
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import at_once
from privynet_jax.training import linear_attack

# Share of the pairs on which the ridge is chosen.
HELD_OUT = 0.2
# Neighbourhoods of so many positions are formed at once.
_POSITIONS_AT_ONCE = 2**16
# Of representations that are inverted at once.
_INVERTED_BYTES = 2**27
_reconstruct = jax.jit(lambda attack, x: jnp.clip(linear_attack.reconstruct(attack, x), 0.0, 1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class FittedLinear:
    """A fitted closed-form attack."""

    attack: linear_attack.LinearAttack

    @property
    def report(self) -> Mapping[str, str | float | int | bool]:
        """Nothing is trained, so nothing can be unfinished."""
        return {"converged": True}

    def reconstruct(self, representations: np.ndarray) -> np.ndarray:
        """Representations float [N, h, w, D] -> estimates float32 [N, H, W, 3] in [0, 1]."""
        total, each = len(representations), 4 * math.prod(representations.shape[1:])
        size = at_once(max(1, total), each, _INVERTED_BYTES)
        pieces = [
            np.asarray(_reconstruct(self.attack, np.float32(representations[start : start + size])))
            for start in range(0, max(1, total), size)
        ]
        return np.concatenate(pieces)


@dataclasses.dataclass(frozen=True)
class LinearInversion:
    """Ridge regression of each block of pixels on the 3 x 3 representation around it (`linear`)."""

    name: str = "linear"
    least_pairs: ClassVar[int] = 2  # one to fit, one to choose the ridge on

    def fit(self, pairs: Pairs, knowledge: Knowledge, key: jax.Array) -> FittedLinear:
        """Solves the normal equations; see `interface.Attack.fit`."""
        count = len(pairs.representations)
        if count < self.least_pairs:
            raise UserError(
                f"the attack {self.name} was given {count} pairs; allowed are {self.least_pairs} "
                "or more"
            )
        fitted = max(1, count - max(1, round(HELD_OUT * count)))
        sums = functools.partial(_sums, pairs)
        positions = range(pairs.representations.shape[-1])
        return FittedLinear(linear_attack.fit(sums(0, fitted), sums(fitted, count), positions))


@dataclasses.dataclass(frozen=True, eq=False)
class FittedMean:
    """The mean of the attacker's images, whatever is asked."""

    image: np.ndarray

    @property
    def report(self) -> Mapping[str, str | float | int | bool]:
        """Nothing is trained."""
        return {"converged": True}

    def reconstruct(self, representations: np.ndarray) -> np.ndarray:
        """float32 [N, h, w, D] -> the mean image, float32 [N, H, W, 3]."""
        return np.broadcast_to(self.image, (len(representations), *self.image.shape))


@dataclasses.dataclass(frozen=True)
class MeanImage:
    """Answers the mean of its images: what anybody reaches who has seen no representation."""

    name: str = "mean image"

    def fit(self, pairs: Pairs, knowledge: Knowledge, key: jax.Array) -> FittedMean:
        """Averages the images; see `interface.Attack.fit`."""
        return FittedMean(np.float32(pairs.images.mean(axis=0, dtype=np.float64) / 255))


def _sums(pairs: Pairs, start: int, stop: int) -> linear_attack.LinearStatistics:
    per_image = int(np.prod(pairs.representations.shape[1:3]))
    size = max(1, _POSITIONS_AT_ONCE // per_image)
    return linear_attack.gather_statistics(
        (
            np.float32(pairs.representations[begin : min(begin + size, stop)]),
            as_float(pairs.images[begin : min(begin + size, stop)]),
        )
        for begin in range(start, stop, size)
    )
