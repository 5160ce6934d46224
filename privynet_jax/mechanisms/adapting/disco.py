"""DISCO: a learned filter that zeroes channels of each picture by what it shows.

Singh et al. 2021, arXiv:2012.11025. Three networks learn at once: the local NN the class alone, an
adversary an attribute from what passes, and the filter to let pass what tells the class, not the
attribute.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from privynet_jax.mechanisms.adapting.adapted import Params, Seen
from privynet_jax.mechanisms.adapting.attribute_keeping import AttributeKeeping, answers, learning
from privynet_jax.mechanisms.adapting.masks import kept_of

_ADVERSARY, _FILTER = "adversary", "filter"
_WIDTH = 32


@dataclasses.dataclass(frozen=True)
class Disco(AttributeKeeping):
    """A local NN with a filter of its own, which runs on the device as well.

    Attributes:
        ratio: share of the released channels that becomes zero in each picture, rounded to whole
            channels; which ones, the receiver sees.
    """

    name: ClassVar[str] = "disco"
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("ratio", "0 to less than 1", 0 <= self.ratio < 1)

    def begun(self, key: jax.Array, seen: Seen) -> Params:
        """Returns filter and adversary."""
        of_filter, of_adversary = jax.random.split(key)
        return {
            _FILTER: FilterNN().init(of_filter, seen.z),
            _ADVERSARY: self.adversary.init(of_adversary, seen.z),
        }

    def released(self, params: Params, z: jax.Array) -> jax.Array:
        """Returns representations with the same share of zero channels in each."""
        return z * kept_of(FilterNN().apply(params[_FILTER], z), self.ratio)[:, None, None]

    def term(self, seen: Seen) -> jax.Array:
        """Returns the adversary's cross-entropy, less the weighted one that the filter raises."""
        # The local NN is no party to it: it learns the class alone.
        passed = self.released(seen.params, jax.lax.stop_gradient(seen.z))
        given = self.adversary, seen.params[_ADVERSARY], passed
        wrong = optax.softmax_cross_entropy_with_integer_labels(answers(*given), seen.private)
        return learning(*given, seen.private) - self.weight * wrong.mean()

    def macs(self, shape: tuple[int, ...], topology: Any) -> int:
        """Returns the filter's dense layers'."""
        return 2 * topology.depth * _WIDTH


class FilterNN(nn.Module):
    """Representation -> a score of each channel: the mean over the picture, two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D], not negative -> float32 [N, D]."""
        hidden = nn.relu(nn.Dense(_WIDTH)(jnp.log1p(x).mean(axis=(1, 2))))
        return nn.Dense(x.shape[-1])(hidden)
