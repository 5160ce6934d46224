"""A VGG's convolutional trunk as a Flax Linen module, used functionally and without files.

The parameters are one plain pytree, so that weights can never meet another's input transform:

    {"preprocessing": {"channel_order": int32[3], "scale": float32[3], "shift": float32[3]},
     "conv1_1": {"kernel": float32[3, 3, in, out], "bias": float32[out]}, "conv1_2": ...}

    output, activations = VGGTrunk(VGG16, num_layers=4).apply({"params": params}, images)
    activations[2]  # of conv1_2

Images are float32 [N, H, W, 3], RGB in [0, 1]; everything is NHWC and HWIO.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from privynet_jax.backbone import winograd
from privynet_jax.backbone.backbones import Backbone
from privynet_jax.backbone.topology import check_image_size
from privynet_jax.errors import UserError
from privynet_jax.images.depth_and_space import same_padded

# The collection of variables for kernels that were transformed beforehand.
TILES = "tiles"


class Preprocessing(nn.Module):
    """Maps images to what the weights expect: `images[..., channel_order] * scale + shift`."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the network's input, float32 of the images' shape."""
        order = self.param("channel_order", lambda _: jnp.arange(3, dtype=jnp.int32))
        scale = self.param("scale", nn.initializers.ones, (3,))
        shift = self.param("shift", nn.initializers.zeros, (3,))
        reordered = jnp.take(images.astype(jnp.float32), jnp.asarray(order), axis=-1)
        return reordered * scale + shift


class Convolution(nn.Module):
    """A 3x3 convolution with zero padding (SAME), by Winograd's tiles where they are given."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, C] -> [N, h, w, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        kernel, bias = (own.astype(x.dtype) for own in (kernel, bias))  # packages have float16
        if self.has_variable(TILES, "kernel") and winograd.suits(x.size, x.shape, kernel):
            return winograd.apply(x, self.get_variable(TILES, "kernel")) + bias
        x, padding = same_padded(x, margin=1)
        how = {
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
            "precision": jax.lax.Precision.HIGHEST,
        }
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **how) + bias


class VGGTrunk(nn.Module):
    """The first `num_layers` convolutions of a VGG, each followed by ReLU.

    Convolutions are 3x3 with zero padding after preprocessing (SAME); a 2x2 max-pool with stride 2
    that drops odd remainders separates the blocks (Simonyan and Zisserman, arXiv:1409.1556).

    A TPU multiplies float32 as bfloat16 by default, and recent GPUs as TF32; privacy numbers
    measured on representations rounded that way would describe another release than the device's,
    so full precision is asked for.
    """

    backbone: Backbone
    num_layers: int
    out_channels: int | None = None  # of the last one, where `split.local_params` cut it
    after: int = 0  # layers that were computed before: their output takes the place of images
    is_rectified: bool = True  # whether the last one is followed by its ReLU, too

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the last layer's output and every layer's, by number: [N, h, w, channels].

        That is the ReLU of a convolution before any pooling. UserError: `num_layers` is out of
        range, or the images have another rank, channel count or type, or are too small.
        """
        last = self.backbone.cut(self.num_layers)
        activations: dict[int, jax.Array] = {}
        x, stride = images, 1
        if self.after:
            stride = self.backbone.cut(self.after).stride
        else:
            _check_images(images)
            check_image_size(last, images.shape[1], images.shape[2])
            x = Preprocessing(name="preprocessing")(images)
        for cut in self.backbone.cuts[self.after : last.number]:
            if cut.stride > stride:
                x = _pooled(x)
                stride = cut.stride
            features = self.out_channels if cut == last and self.out_channels else cut.channels
            x = Convolution(features, name=cut.name)(x)
            x = nn.relu(x) if cut != last or self.is_rectified else x
            activations[cut.number] = x
        return x, activations


def _pooled(x: jax.Array) -> jax.Array:
    """The maxima of 2 x 2: as `nn.max_pool`, whose gradient takes CPUs long."""
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


def _check_images(images: jax.Array) -> None:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"images have shape {tuple(images.shape)}; expected [N, H, W, 3]; "
            "put the channels last, and add a leading axis for a single image"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images have type {images.dtype}; expected float32 RGB in [0, 1]; "
            "convert them, and divide 8-bit values by 255"
        )
