"""Networks beside the project's own: plain decoders to beat, and other architectures.

`BASELINES` are what papers train, and nothing more: an SRGAN-style residual decoder (Ledig et al.
2017, arXiv:1609.04802, which PrivyNet's attack uses) and five transposed convolutions. They lack
the linear estimate, the folding to one working grid, the compression of activations, and an
optimiser of their own. `CONTENDERS`, a U-Net and a transformer, get all that the strong attacker
gets: the linear estimate to see and to correct, compressed activations, the logarithmic loss and
Muon.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from privynet_jax.images.depth_and_space import depth_to_space, space_to_depth
from privynet_jax.training.models.attackers import Capacity
from privynet_jax.training.models.networks import Attention, ResidualBlock, WorkingGrid
from privynet_jax.training.optimisers import muon
from privynet_jax.training.tasks import log_loss

_BLOCKS, _WIDTH, _LAYERS = 8, 64, 5
_RESIDUAL_SCALE = 0.1
_ZEROS = nn.initializers.zeros
_Conv, _ConvTranspose, _Dense = (
    functools.partial(layer, precision=jax.lax.Precision.HIGHEST)
    for layer in (nn.Conv, nn.ConvTranspose, nn.Dense)
)


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


class UNet(nn.Module):
    """Halves its grid, of `stride` x `stride` pixels per position, and comes back, with skips.

    A side of the image must be a multiple of `stride` times two to the number of halvings.
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
    """A vision transformer; tokens are the positions of the working grid (arXiv:2010.11929)."""

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


def adam(rate: optax.ScalarOrSchedule, weight_decay: float) -> optax.GradientTransformation:
    """Plain Adam, which decays no weights."""
    return optax.adam(rate)


BASELINES: Mapping[str, Capacity] = {
    name: Capacity(name, network, 1e-3, adam, linear_start=False)
    for name, network in {"srgan": ResidualDecoder, "transposed": TransposedDecoder}.items()
}
CONTENDERS: Mapping[str, Capacity] = {
    name: Capacity(name, network, 4e-3, muon, log_loss, shows_estimate=True)
    for name, network in {"unet": UNet, "transformer": Transformer}.items()
}
