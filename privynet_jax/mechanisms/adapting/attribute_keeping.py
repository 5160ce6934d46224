"""What mechanisms share that keep one attribute of a picture private, and an adversary of theirs.

Attributes are those that `attacks.inference.attributes` reads off the picture itself, in its
classes: `brightness` and `contrast` in thirds of the public pictures, `colour` by what stands out.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.inference.attributes import COUNTS, attribute_values
from privynet_jax.images.parts import Parts
from privynet_jax.mechanisms.adapting.adapted import EarlyExit

_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class AttributeKeeping(EarlyExit):
    """A local NN whose representations are to tell the class, and not an attribute.

    Attributes:
        attribute: brightness, contrast or colour.
        weight: of what hides it, beside the exit's cross-entropy.
    """

    attribute: str = "brightness"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("attribute", " or ".join(COUNTS), self.attribute in COUNTS)
        self._check("weight", "0 or more", 0 <= self.weight < float("inf"))

    def private(self, parts: Parts) -> np.ndarray:
        """Returns the attribute of auxiliary pictures, int [P]; UserError: all have the same."""
        return attribute_values(self.attribute, parts, data_dir=None)["auxiliary"]

    @property
    def adversary(self) -> "AttributeNN":
        """The network that the local NN learns to mislead."""
        return AttributeNN(COUNTS[self.attribute])


class AttributeNN(nn.Module):
    """Representation -> logits of an attribute's values: numbers of each channel, two dense layers.

    The numbers are what an attacker's linear probe has of a picture, but for the spread's root,
    which has no gradient where a channel is silent: means of its quarters, and of squares.
    """

    num_values: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D], not negative -> float32 [N, num_values]."""
        x = jnp.log1p(x)
        fields = tuple(max(1, side // 2) for side in x.shape[1:3])
        quarters = nn.avg_pool(x, fields, strides=fields).reshape(len(x), -1)
        numbers = jnp.concatenate([quarters, jnp.square(x).mean(axis=(1, 2))], axis=-1)
        hidden = nn.relu(nn.Dense(_WIDTH)(numbers))
        return nn.Dense(self.num_values)(hidden)


def learning(network: nn.Module, params: Any, z: jax.Array, private: jax.Array) -> jax.Array:
    """Returns an adversary's cross-entropy, from which it alone learns: z is taken as it is."""
    logits = network.apply(params, jax.lax.stop_gradient(z))
    return optax.softmax_cross_entropy_with_integer_labels(logits, private).mean()


def answers(network: nn.Module, params: Any, z: jax.Array) -> jax.Array:
    """Returns an adversary's logits, from which z alone learns: the adversary is as it is."""
    return network.apply(jax.lax.stop_gradient(params), z)
