"""The perceptual distance, against the same sums in NumPy."""

import functools

import jax
import numpy as np
import pytest
from jax import export

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.characterisation.perceptual import (
    directions,
    half_squares,
    images_for,
    perceptual_distance,
)
from privynet_jax.images.parts import as_float


@pytest.fixture(scope="module")
def images(photo_parts):
    return photo_parts.test.images[:6]


def test_it_is_the_cosine_distance_of_activations(vgg_weights, images):
    noisy = np.clip(images + np.random.default_rng(0).normal(0, 20, images.shape), 0, 255)
    found = perceptual_distance(vgg_weights, images)(np.uint8(noisy))
    apply = jax.jit(lambda x: VGGTrunk(VGG16, 7).apply({"params": vgg_weights.params}, x)[1])
    ours, theirs = apply(as_float(images)), apply(as_float(np.uint8(noisy)))
    expected = []
    for name in (2, 4, 7):
        a, b = np.float64(ours[name]), np.float64(theirs[name])
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        expected.append((1 - (a * b).sum(-1) / lengths).mean(axis=(1, 2)))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)
    assert found.dtype == np.float32


def test_equal_images_have_no_distance_and_worse_ones_more(vgg_weights, images):
    distance = perceptual_distance(vgg_weights, images)
    assert distance(images).max() < 1e-6
    mean = np.broadcast_to(np.uint8(images.mean(axis=(1, 2), keepdims=True)), images.shape)
    blended = np.uint8(0.7 * images + 0.3 * mean)
    assert np.all(distance(blended) < distance(mean))
    # Of other pictures: far, but never beyond 1, because activations are not negative.
    assert 0.1 < distance(np.roll(images, 1, axis=0)).min() <= 1


def test_nothing_in_common_is_one_and_silence_is_a_half():
    one, other = np.eye(2, dtype=np.float32).reshape(2, 1, 1, 1, 2)
    assert half_squares([one], [other]) == pytest.approx(1)
    assert half_squares([one, one], [other, one]) == pytest.approx(0.5)
    assert half_squares([one], [0 * other]) == pytest.approx(0.5)


def test_the_work_is_bounded():
    assert (images_for(32), images_for(16), images_for(224), images_for(1024)) == (64, 64, 5, 1)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_lowers_for_accelerators(vgg_weights, platform):
    find = functools.partial(directions, VGG16)
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), np.float32)
    exported = export.export(
        jax.jit(lambda params, a, b: half_squares(find(params, a), find(params, b))),
        platforms=[platform],
    )(vgg_weights.params, images, images)
    assert exported.out_avals[0].shape == (3,)
