"""Other architectures in the strong attacker's place: a U-Net and a transformer.

They get all that `models.StrongAttacker` gets: the linear estimate to see and to correct,
compressed activations, the logarithmic loss, Muon and the same budget. `compare_attackers` sets
them beside it, which is how its architecture is justified, and can be doubted.

    for attack in contenders(Budget(seconds=60)):
        fitted = attack.fit(scene.pairs(), Knowledge(PAIRS), jax.random.key(0))
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.tuning import Budget
from privynet_jax.images.depth_and_space import depth_to_space, space_to_depth
from privynet_jax.training.attackers import Capacity
from privynet_jax.training.networks import Attention, ResidualBlock, WorkingGrid
from privynet_jax.training.tasks import LOGARITHMIC, muon

_Conv = functools.partial(nn.Conv, precision=jax.lax.Precision.HIGHEST)
_Dense = functools.partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)
_ZEROS = nn.initializers.zeros


class UNet(nn.Module):
    """Halves its grid as often as `widths` says, and comes back, with a skip at every size.

    Its finest grid has `stride` x `stride` pixels per position; a side of the image must be a
    multiple of `stride` times two to the number of halvings.
    """

    image_size: int
    stride: int = 2
    widths: tuple[int, ...] = (64, 128, 192)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, estimate: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] and [N, S, S, 3] -> correction float32 [N, S, S, 3]."""
        first, *deeper = self.widths
        x = WorkingGrid(first, self.image_size, self.dtype, self.stride)(x)
        x += _Dense(first, dtype=self.dtype)(space_to_depth(estimate - 0.5, self.stride))
        x = ResidualBlock(first, self.dtype)(x)
        skipped = [x]
        for width in deeper:
            x = _Conv(width, (2, 2), strides=(2, 2), dtype=self.dtype)(nn.relu(x))
            x = ResidualBlock(width, self.dtype)(x)
            skipped.append(x)
        skipped.pop()
        for width, skip in zip(reversed(self.widths[:-1]), reversed(skipped), strict=True):
            x = skip + depth_to_space(_Dense(4 * width, dtype=self.dtype)(nn.relu(x)), width)
            x = ResidualBlock(width, self.dtype)(x)
        head = _Conv(3 * self.stride**2, (3, 3), dtype=self.dtype, kernel_init=_ZEROS)
        return depth_to_space(head(nn.relu(x)).astype(jnp.float32), channels=3)


class Transformer(nn.Module):
    """A vision transformer whose tokens are the positions of the working grid (arXiv:2010.11929).

    Layers of attention and of a perceptron, each around a skip, that start as the identity.
    """

    image_size: int
    width: int = 192
    num_layers: int = 4
    stride: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, estimate: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] and [N, S, S, 3] -> correction float32 [N, S, S, 3]."""
        x = WorkingGrid(self.width, self.image_size, self.dtype, self.stride)(x)
        x += _Dense(self.width, dtype=self.dtype)(space_to_depth(estimate - 0.5, self.stride))
        for _ in range(self.num_layers):
            x = Attention(self.width, dtype=self.dtype)(x)
            y = _Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x += _Dense(self.width, dtype=self.dtype, kernel_init=_ZEROS)(nn.gelu(y))
        head = _Dense(3 * self.stride**2, dtype=self.dtype, kernel_init=_ZEROS)
        y = head(nn.LayerNorm(dtype=self.dtype)(x))
        return depth_to_space(y.astype(jnp.float32), channels=3)


def contenders(
    budget: Budget, rate_factors: Sequence[float] = (1.0,)
) -> tuple[InverseNetwork, ...]:
    """Returns both behind the interface of all attacks.

    Args:
        budget: of each.
        rate_factors: multiples of their usual learning rates that compete within it.
    """
    networks = {"unet": (UNet, 4e-3), "transformer": (Transformer, 4e-3)}
    return tuple(
        InverseNetwork(
            name,
            (Capacity(name, network, rate, muon, LOGARITHMIC, shows_estimate=True),),
            budget,
            tuple(rate_factors),
        )
        for name, (network, rate) in networks.items()
    )
