"""Declustering: pictures of one attribute value are driven apart, those of others together.

Coavoux, Narayan and Cohen 2018, arXiv:1808.09408. Needs an attribute, and no adversary.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from privynet_jax.mechanisms.adapting.adapted import Seen
from privynet_jax.mechanisms.adapting.attribute_keeping import AttributeKeeping


@dataclasses.dataclass(frozen=True)
class Declustering(AttributeKeeping):
    """A local NN whose representations form no clusters by the attribute."""

    name: ClassVar[str] = "declustering"

    def term(self, seen: Seen) -> jax.Array:
        """Returns the weighted loss of the batch."""
        return self.weight * declustering(seen.z, seen.private)


def declustering(z: jax.Array, private: jax.Array) -> jax.Array:
    """Returns the mean over pairs of different rows of (1/2 - s) |r - r'|^2, a float32 scalar.

    s is 1 where both have the same value of the attribute, int [N], and 0 where they have not: the
    share of private labels in common, of one label. Representations [N, ...] are not negative; r is
    their tanh, since the loss of what has no bound, as an LSTM's state has, would have none; |.|^2
    is the mean over their values.
    """
    r = jnp.tanh(z.reshape(len(z), -1))
    squares = jnp.mean(jnp.square(r[:, None] - r[None]), axis=-1)
    weights = 0.5 - (private[:, None] == private[None])
    pairs = len(r) * (len(r) - 1)
    # A row is at no distance from itself.
    return jnp.sum(weights * squares) / max(1, pairs)
