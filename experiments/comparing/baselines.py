"""Plain decoders that the project's attackers have to beat: what papers train, and nothing more.

An SRGAN-style residual decoder (Ledig et al. 2017, arXiv:1609.04802, which PrivyNet's attack uses)
and five transposed convolutions. They get what `privynet_jax.attacks.inverse` gives every network:
the pairs, the budget, a warmed-up cosine and the best of its cycles. What they lack are the linear
estimate, the folding to one working grid, the compression of activations, and their own optimiser.

    for attack in baselines(Budget(seconds=60)):
        fitted = attack.fit(scene.pairs(), Knowledge(PAIRS), jax.random.key(0))
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import optax

from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.tuning import Budget
from privynet_jax.images.depth_and_space import depth_to_space
from privynet_jax.training.attackers import Capacity

_BLOCKS, _WIDTH, _LAYERS = 8, 64, 5
_RESIDUAL_SCALE = 0.1
_Conv = functools.partial(nn.Conv, precision=jax.lax.Precision.HIGHEST)
_ConvTranspose = functools.partial(nn.ConvTranspose, precision=jax.lax.Precision.HIGHEST)


class ResidualDecoder(nn.Module):
    """SRGAN's generator on representations: eight residual blocks, then sub-pixel upsampling.

    Without batch normalisation, which later super-resolution networks dropped because it costs
    quality, and with the residual scaling by 0.1 that took its place (EDSR, arXiv:1707.02921).
    Everything has 64 channels, and kernels are 3 x 3.
    """

    image_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, S, S, 3]."""
        x = first = nn.relu(_Conv(_WIDTH, (3, 3))(x))
        for _ in range(_BLOCKS):
            y = nn.relu(_Conv(_WIDTH, (3, 3))(x))
            x = x + _RESIDUAL_SCALE * _Conv(_WIDTH, (3, 3))(y)
        x = first + _Conv(_WIDTH, (3, 3))(x)
        while x.shape[1] < self.image_size:
            x = nn.relu(depth_to_space(_Conv(4 * _WIDTH, (3, 3))(x), _WIDTH))
        return _Conv(3, (3, 3))(x)


class TransposedDecoder(nn.Module):
    """Five transposed convolutions; as many as are needed double the side, the first ones."""

    image_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, S, S, 3]."""
        for layer in range(_LAYERS):
            is_last = layer == _LAYERS - 1
            stride = 2 if x.shape[1] < self.image_size else 1
            side = 4 if stride == 2 else 3  # a multiple of the stride leaves no checkerboard
            width = 3 if is_last else _WIDTH
            x = _ConvTranspose(width, (side, side), strides=(stride, stride))(x)
            x = x if is_last else nn.relu(x)
        return x


def adam(rate: optax.ScalarOrSchedule, weight_decay: float) -> optax.GradientTransformation:
    """Plain Adam, which decays no weights."""
    return optax.adam(rate)


def baselines(budget: Budget, rate_factors: Sequence[float] = (1.0,)) -> tuple[InverseNetwork, ...]:
    """Returns both decoders behind the interface of all attacks.

    Args:
        budget: of each.
        rate_factors: multiples of their usual learning rate, 0.001, that compete within it.
    """
    networks = {"srgan": ResidualDecoder, "transposed": TransposedDecoder}
    return tuple(
        InverseNetwork(
            name,
            (Capacity(name, network, 1e-3, adam, linear_start=False),),
            budget,
            tuple(rate_factors),
        )
        for name, network in networks.items()
    )
