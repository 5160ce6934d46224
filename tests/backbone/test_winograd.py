"""Convolutions by Winograd's tiles, against direct ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from privynet_jax.backbone import split, winograd
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.winograd import convolve, transformed

direct = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=jax.lax.Precision.HIGHEST,
)
# Sums of a few products of magnitudes near their largest; tiles add up to 36 of them, and weigh
# some of these by 8.
CLOSE = 64 * 1.2e-7


def random(*shape: int) -> jax.Array:
    return jnp.float32(np.random.default_rng(len(shape)).normal(size=shape))


def assert_close(found: jax.Array, expected: jax.Array) -> None:
    np.testing.assert_allclose(found, expected, atol=CLOSE * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("shape", [(3, 8, 8, 40, 33), (2, 4, 10, 32, 32), (1, 7, 2, 64, 48)])
def test_values_and_gradients_are_those_of_the_direct_one(shape):
    *size, channels, depth = shape
    x, kernel, y = random(*size, channels), random(3, 3, channels, depth), random(*size, depth)
    found, back = jax.vjp(jax.jit(convolve), x, kernel)
    expected, back_direct = jax.vjp(direct, x, kernel)
    assert_close(found, expected)
    for ours, theirs in zip(back(y), back_direct(y), strict=True):
        assert_close(ours, theirs)
    of_tiles, back_tiles = jax.vjp(lambda x, k: winograd.apply(x, transformed(k)), x, kernel)
    assert_close(of_tiles, expected)
    for ours, theirs in zip(back_tiles(y), back_direct(y), strict=True):
        assert_close(ours, theirs)
    mapped = jax.vmap(winograd.apply, in_axes=(0, None))(x[:, None], transformed(kernel))
    assert_close(mapped[:, 0], expected)


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "others", "tiled"),
    [
        (8, 32, (3, 3), {}, True),
        (7, 32, (3, 3), {}, True),
        (5, 32, (3, 3), {}, False),
        (8, 3, (3, 3), {}, False),
        (8, 32, (2, 2), {}, False),
        (8, 32, (3, 3), {"padding": "VALID"}, False),
        (8, 32, (3, 3), {"padding": "CIRCULAR"}, False),
        (8, 32, (3, 3), {"strides": (2, 2)}, False),
        (8, 32, (3, 3), {"kernel_dilation": (2, 2)}, False),
        (8, 64, (3, 3), {"feature_group_count": 2}, False),
    ],
)
def test_it_takes_the_place_of_a_layers_convolution(size, channels, kernel, others, tiled):
    layer = functools.partial(nn.Conv, 32, kernel, **others)
    own = layer(conv_general_dilated=winograd.conv_general_dilated)
    x = random(2, size, size, channels)
    params = layer().init(jax.random.key(0), x)
    assert_close(own.apply(params, x), layer().apply(params, x))
    assert ("convolution" not in jax.jit(own.apply).lower(params, x).as_text()) == tiled


def test_accelerators_convolve_directly():
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel).sum()

    arguments = random(2, 8, 8, 32), random(3, 3, 32, 32)
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    for platform, expected in (("cuda", 2), ("tpu", 2), ("cpu", 0)):
        lowered = export.export(gradients, platforms=[platform])(*arguments)
        assert lowered.mlir_module().count("stablehlo.convolution") == expected


@pytest.mark.parametrize("size", [16, 10])
def test_a_backbone_with_tiles_is_the_same(size):
    params = split.made_up_params(VGG16, 5)
    images = jnp.abs(random(2, size, size, 3))
    expected = split.activations(VGG16, params, images, [2, 4, 5])
    found = split.activations(VGG16, split.with_tiles(params), images, [2, 4, 5])
    for layer, values in expected.items():
        # Errors of five layers add up.
        np.testing.assert_allclose(found[layer], values, atol=5 * CLOSE * float(values.max()))


@pytest.mark.parametrize("chosen", [range(60, 100), (7, 3)])  # by tiles, and too few for them
def test_some_channels_of_the_last_layer_are_computed_alone(chosen):
    params = split.with_tiles(split.made_up_params(VGG16, 4))
    images = jnp.abs(random(2, 16, 16, 3))
    expected = split.activations(VGG16, params, images, [4])[4][..., np.asarray(chosen)]
    found = split.layer_nn(VGG16, params, 4, np.asarray(chosen))(images)
    np.testing.assert_allclose(found, expected, atol=4 * CLOSE * float(expected.max()))
