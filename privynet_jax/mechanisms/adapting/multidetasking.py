"""Multidetasking: an adversary learns an attribute, and the local NN to make it answer wrongly.

Coavoux, Narayan and Cohen 2018, arXiv:1808.09408.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from privynet_jax.mechanisms.adapting.adapted import Params, Seen
from privynet_jax.mechanisms.adapting.attribute_keeping import AttributeKeeping, answers, learning

_ADVERSARY = "adversary"


@dataclasses.dataclass(frozen=True)
class Multidetasking(AttributeKeeping):
    """A local NN that is trained in turn with an adversary, both in each step."""

    name: ClassVar[str] = "multidetasking"

    def begun(self, key: jax.Array, seen: Seen) -> Params:
        """Returns the adversary."""
        return {_ADVERSARY: self.adversary.init(key, seen.z)}

    def term(self, seen: Seen) -> jax.Array:
        """Returns the adversary's loss, and the weighted one of the local NN."""
        given = self.adversary, seen.params[_ADVERSARY], seen.z
        misled = unlikelihood(answers(*given), seen.private)
        return learning(*given, seen.private) + self.weight * misled


def unlikelihood(logits: jax.Array, private: jax.Array) -> jax.Array:
    """Returns the mean of -log(1 - p), p being what the softmax gives the true value.

    Logits are float32 [N, values], values int [N].
    """
    true = jax.nn.one_hot(private, logits.shape[-1], dtype=bool)
    # 1 - p is what the others have together.
    others = jax.nn.logsumexp(jnp.where(true, -jnp.inf, logits), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - others)
