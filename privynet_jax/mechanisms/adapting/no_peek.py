"""NoPeek: representations that depend as little as possible on pictures.

Vepakomma et al. 2020, arXiv:2008.09161. Needs no adversary and no attribute.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from privynet_jax.mechanisms.adapting.adapted import EarlyExit, Seen

_TINY = 1e-9


@dataclasses.dataclass(frozen=True)
class NoPeek(EarlyExit):
    """A local NN with a penalty on the distance correlation of pictures and representations.

    Attributes:
        weight: of the penalty, beside the exit's cross-entropy. From 1 on nothing is left of a
            representation that was measured.
    """

    name: ClassVar[str] = "nopeek"
    weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight", "0 or more", 0 <= self.weight < float("inf"))

    def term(self, seen: Seen) -> jax.Array:
        """Returns the weighted penalty."""
        return self.weight * distance_correlation(seen.images, seen.z)


def distance_correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns how much two arrays of N rows each depend on each other, 0 to 1.

    Szekely, Rizzo and Bakirov 2007, doi:10.1214/009053607000000505, of the sample, V-statistics.
    """
    a, b = (_centred(_distances(v.reshape(len(v), -1))) for v in (x, y))
    shared, own, others = (jnp.mean(p * q) for p, q in ((a, b), (a, a), (b, b)))
    return jnp.sqrt(jnp.maximum(shared, 0) / jnp.sqrt(own * others + _TINY) + _TINY)


def _distances(rows: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(rows[:, None] - rows[None]), axis=-1)
    # The root has no gradient at 0, which a row's distance from itself is.
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def _centred(distances: jax.Array) -> jax.Array:
    rows, columns = (distances.mean(axis=axis, keepdims=True) for axis in (0, 1))
    return distances - rows - columns + distances.mean()
