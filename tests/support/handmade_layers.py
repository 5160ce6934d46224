"""Layers that are no VGG16, small enough to know what can be told of their channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures

SIDE = 16
CENTRED = 12  # channels of `centred`


def pictures(count, seed):
    """uint8 [count, 16, 16, 3]: soft blobs of colour under some grain, each picture its own."""
    stream = np.random.default_rng(seed)
    coarse = stream.uniform(0, 1, (count, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    grain = stream.normal(0, 0.08, (count, SIDE, SIDE, 3))
    return np.uint8(255 * np.clip(coarse + grain, 0, 1))


def distinct_layer(channels=24, seed=0):
    """A layer of random 3 x 3 kernels whose first three channels are the image itself."""
    stream = np.random.default_rng(seed)
    kernel = stream.normal(0, 1, (3, 3, 3, channels)).astype(np.float32)
    kernel[..., :3] = 0
    kernel[1, 1, :, :3] = np.eye(3)
    bias = stream.normal(0, 1, channels).astype(np.float32)
    bias[:3] = 0

    def layer(images):
        convolved = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(convolved + bias)

    return layer


def centred(images, offset):
    """A convolution of all colours, with offsets as trained networks have, a ReLU, and a filler."""
    kernels = np.random.default_rng(1).normal(size=(3, 3, 3, CENTRED))
    numbers = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(
        images - 0.45, jnp.float32(kernels), (1, 1), "SAME", dimension_numbers=numbers
    )
    return jnp.pad(jax.nn.relu(found + offset), ((0, 0), (0, 0), (0, 0), (0, 1)))


def represented(layer, images, channels, scales):
    """What a device releases of images uint8 [N, H, W, 3]."""
    everything = np.asarray(layer(jnp.asarray(images, jnp.float32) / 255))
    return everything[..., list(channels)] * np.float32(scales)


def handmade_features(num_layers, channels, parts):
    """Stored values that no scale was applied to, part name -> [N, h, w, C], as a cached layer."""
    channels = tuple(channels)
    return LayerFeatures(num_layers, channels, parts, np.ones(len(channels), np.float32))


def network_of(layers):
    """What `base.Network` asks for, of functions by number of layers."""

    def chosen(layer, channels):
        return layer if channels is None else lambda images: layer(images)[..., channels]

    return {number: functools.partial(chosen, layer) for number, layer in layers.items()}
