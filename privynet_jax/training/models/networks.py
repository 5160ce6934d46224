"""The networks that see representations: the cloud NN, and the trained attacker.

Both take normalised representations (`extraction` gives the scale), float32 [N, h, w, D], of any
layer: they fold or unfold them to one working grid, where each position stands for 4 x 4 pixels of
the image. There a convolution keeps a CPU's matrix units as busy as a GPU's, and the arithmetic per
image does not depend on the layer. Neither has batch statistics, so training and evaluation are
the same function. `trainer` trains them.

    network = CloudNN(num_classes=30, image_size=32)
    variables = network.init(key, representations)
    logits = network.apply(variables, representations)
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from privynet_jax.backbone.winograd import conv_general_dilated
from privynet_jax.images.depth_and_space import depth_to_space, space_to_depth
from privynet_jax.training.models.grid_sizes import (
    WORKING_STRIDE,
    check_is_square,
    folding_of,
    nominal_image_size,
)
from privynet_jax.training.models.products import dense_product

# The depth at which a representation and the first convolution's output have one scale at first.
_USUAL_DEPTH = 32
# Positions of a grid, beyond which every one looking at every other one costs too much memory.
_MOST_ATTENDED = 1024

# Full float32 on every backend, unless bfloat16 is asked for: TPUs and recent GPUs would round
# products to 8 or 11 bits, and an attacker weakened like that would pass for privacy.
Conv = functools.partial(
    nn.Conv, precision=jax.lax.Precision.HIGHEST, conv_general_dilated=conv_general_dilated
)
Dense = functools.partial(nn.Dense, dot_general=dense_product)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; it starts as the identity."""

    width: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, h, w, width] -> the same."""
        y = Conv(self.width, (3, 3), dtype=self.dtype)(nn.relu(x))
        # Zeros let a network without normalisation train at once, whatever its number of blocks.
        zeros = nn.initializers.zeros
        y = Conv(self.width, (3, 3), dtype=self.dtype, kernel_init=zeros)(nn.relu(y))
        return x + y


class Attention(nn.Module):
    """Every position looks at every other one, around a skip; it starts as the identity.

    Where deep layers have blurred what was where, the whole image tells more than neighbours do.
    Of large grids, means of blocks of keys and values are looked at (arXiv:2106.13797), so that
    memory does not grow with the square of their positions.
    """

    width: int
    num_heads: int = 4
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, h, w, width] -> the same."""
        count, height, width, _ = x.shape
        tokens = nn.LayerNorm(dtype=self.dtype)(x.reshape(count, height * width, self.width))
        places = self.param("places", nn.initializers.normal(0.3), tokens.shape[1:])
        # One matrix for all three: Muon (`optimisers.muon`) is for matrices.
        mixed = Dense(3 * self.width, dtype=self.dtype)(tokens + places.astype(self.dtype))
        heads = mixed.reshape(*tokens.shape[:2], 3, self.num_heads, self.width // self.num_heads)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        block = 1
        while height * width * -(-height // block) * -(-width // block) > _MOST_ATTENDED**2:
            block += 1
        if block > 1:
            key, value = (self._coarser(each, x.shape, block) for each in (key, value))
        found = nn.dot_product_attention(
            query, key, value, dtype=self.dtype, precision=jax.lax.Precision.HIGHEST
        )
        zeros = nn.initializers.zeros
        return x + Dense(self.width, dtype=self.dtype, kernel_init=zeros)(found.reshape(x.shape))

    def _coarser(self, each: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
        """Means over blocks of positions, fewer at far edges: [N, tokens, heads, channels]."""
        window = (block, block)
        grid = nn.avg_pool(
            each.reshape(shape), window, window, padding="SAME", count_include_pad=False
        )
        return grid.reshape(len(each), -1, *each.shape[2:])


class WorkingGrid(nn.Module):
    """Brings a representation of any stride to the working grid, with `width` channels.

    All by 1 x 1 convolutions: folded input already shows them 4 x 4 pixels, what is to be unfolded
    is so small that larger kernels run slowly on CPU, and the blocks that follow see neighbours.
    """

    width: int
    image_size: int
    dtype: DType = jnp.float32
    working_stride: int = WORKING_STRIDE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, h, w, D] -> [N, image_size / 4, image_size / 4, width], 4 being the stride."""
        # Post-ReLU activations have heavy tails; uncompressed, a rare peak throws training off.
        # What noise has made negative counts alike.
        x = jnp.copysign(jnp.log1p(jnp.abs(x)), x)
        folding, unfolding = folding_of(x.shape[1], self.image_size, self.working_stride)
        # Flax would scale by the padded depth, and so start small depths with weaker signals.
        spread = nn.initializers.normal((_USUAL_DEPTH * folding**2) ** -0.5)
        width = unfolding**2 * self.width
        # A matrix product is a 1 x 1 convolution that CPUs run at twice the rate.
        stem = Dense(width, dtype=self.dtype, kernel_init=spread, name="stem")
        return depth_to_space(stem(space_to_depth(x, folding)), self.width)


class CloudNN(nn.Module):
    """Representation -> class logits: a small residual network that halves its grid once.

    Attributes:
        num_classes: length of the logits.
        image_size: side of the images, in pixels, from which the representations came.
        width: channels on the working grid; doubled by the halving.
        dtype: of all that is computed; parameters and logits are float32.
    """

    num_classes: int
    image_size: int = 32
    width: int = 64
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> logits float32 [N, num_classes]."""
        x = WorkingGrid(self.width, self.image_size, self.dtype)(x)
        return classified(x, self.num_classes, self.dtype)


def classified(x: jax.Array, num_classes: int, dtype: DType, **last: Any) -> jax.Array:
    """What follows the stem in cloud NNs' compact methods: [N, h, w, C] -> logits float32.

    Whatever else is said is of the last layer.
    """
    width = x.shape[-1]
    x = ResidualBlock(width, dtype)(x)
    x = Conv(2 * width, (2, 2), strides=(2, 2), dtype=dtype)(nn.relu(x))
    x = ResidualBlock(2 * width, dtype)(x)
    x = nn.LayerNorm(dtype=dtype)(x.mean(axis=(1, 2)))
    return Dense(num_classes, dtype=dtype, **last)(x).astype(jnp.float32)


def corrections(
    x: jax.Array, num_blocks: int, stride: int, dtype: DType, *, attends: bool
) -> jax.Array:
    """What follows the stem in attackers' compact methods: a correction of images, float32.

    A grid [N, h, w, C], of `stride` x `stride` pixels per position, goes through residual blocks,
    each maybe followed by attention, and a sub-pixel head: [N, h * stride, w * stride, 3].
    """
    width = x.shape[-1]
    for _ in range(num_blocks):
        x = ResidualBlock(width, dtype)(x)
        if attends:
            x = Attention(width, dtype=dtype)(x)
    zeros, pixels = nn.initializers.zeros, stride**2 * 3
    head = Conv(pixels, (3, 3), dtype=dtype, kernel_init=zeros, name="head")
    return depth_to_space(head(nn.relu(x)).astype(jnp.float32), channels=3)


class ResidualAttacker(nn.Module):
    """Representation -> correction of an image estimate, by residual blocks and a sub-pixel head.

    The grid adds it to the linear attacker's estimate, from which it starts: its last layer is zero
    at first. So training only ever spends its steps on what a linear map cannot do.

    Attributes:
        image_size: side of the images, in pixels.
        width: channels on the working grid.
        num_blocks: residual blocks there.
        dtype: of all that is computed; parameters and the correction are float32.
    """

    image_size: int = 32
    width: int = 96
    num_blocks: int = 3
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, image_size, image_size, 3]."""
        x = WorkingGrid(self.width, self.image_size, self.dtype)(x)
        return corrections(x, self.num_blocks, WORKING_STRIDE, self.dtype, attends=False)


class StrongAttacker(nn.Module):
    """Representation and linear estimate -> correction of the estimate; strongest per second.

    Of representations as large as the image it makes a grid of 2 x 2 pixels per position, where the
    same weights answer for four times as many places. On the usual grid, attention follows each
    block. `optimisers.muon` trains it.
    """

    image_size: int  # side of the images, in pixels
    num_blocks: int = 2  # residual blocks
    dtype: DType = jnp.float32  # of all that is computed; parameters and correction are float32

    @nn.compact
    def __call__(self, x: jax.Array, estimate: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] and [N, S, S, 3] -> float32 [N, S, S, 3], S being image_size."""
        fine = x.shape[1] == self.image_size
        stride, width = (WORKING_STRIDE // 2, 64) if fine else (WORKING_STRIDE, 96)
        x = WorkingGrid(width, self.image_size, self.dtype, stride)(x)
        x += Dense(width, dtype=self.dtype)(space_to_depth(estimate - 0.5, stride))
        return corrections(x, self.num_blocks, stride, self.dtype, attends=not fine)


# As the functional API calls them.
cloud_nn, attacker = CloudNN, ResidualAttacker


def network_for(shape: tuple[int, ...], num_classes: int, width: int) -> CloudNN:
    """Returns the cloud NN for representations of a shape (h, w, d); UserError: no squares."""
    check_is_square(shape)
    return CloudNN(num_classes, nominal_image_size(shape[0]), width)
