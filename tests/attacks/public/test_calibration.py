"""Gains of a release's channels, found with its pictures, by a layer of which all is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.handmade_layers import pictures

from privynet_jax.attacks.matching import Matcher
from privynet_jax.attacks.pixel_prior import fit_prior
from privynet_jax.attacks.public.calibration import (
    Calibration,
    brightest,
    calibrate,
    pictures_of,
)
from privynet_jax.images.parts import as_float

CHANNELS = 12
TRUTH = as_float(pictures(8, seed=1))
GAINS = np.exp(np.random.default_rng(0).normal(0.06, 0.05, CHANNELS)).astype(np.float32)


def local(images, offset):
    """A convolution of all colours, with offsets as trained networks have, and a ReLU."""
    kernels = np.random.default_rng(1).normal(size=(3, 3, 3, CHANNELS))
    numbers = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(
        images - 0.45, jnp.float32(kernels), (1, 1), "SAME", dimension_numbers=numbers
    )
    return jnp.pad(jax.nn.relu(found + offset), ((0, 0), (0, 0), (0, 0), (0, 1)))


biased = functools.partial(local, offset=np.float32(0.5))


@functools.cache
def calibrated(strange=False, silent=False):
    layer = biased
    if silent:  # in these pictures, and just so
        offsets = np.full(CHANNELS, 0.5, np.float32)
        offsets[5] -= biased(TRUTH)[..., 5].max()
        layer = functools.partial(local, offset=offsets)
    release = np.asarray(layer(TRUTH)).copy()
    release[..., :CHANNELS] /= GAINS
    if strange:
        release[..., 3] = np.random.default_rng(2).random(release.shape[:3])
    blurred = (TRUTH + np.roll(TRUTH, 1, axis=1) + np.roll(TRUTH, 1, axis=2)) / 3
    return calibrate(layer, fit_prior(TRUTH - blurred), release, blurred, steps=150)


def test_gains_are_found_with_the_pictures():
    found = calibrated()
    wrong = np.log(found.gains[:CHANNELS] / GAINS)
    # Relative to each other nearly exactly; what they share is too small, which `brightest` mends.
    np.testing.assert_allclose(wrong, wrong.mean(), atol=0.005)
    assert -0.1 < wrong.mean() < 0.01
    assert found.common == pytest.approx(np.log(found.gains[:CHANNELS]).mean())
    np.testing.assert_array_equal(found.weights, 1)


def test_a_channel_that_no_picture_explains_weighs_little_and_leaves_the_others_theirs():
    found = calibrated(strange=True)
    assert found.weights[3] < 0.2
    others = np.delete(np.arange(CHANNELS), 3)
    np.testing.assert_array_equal(found.weights[others], 1)
    wrong = np.log(found.gains[others] / GAINS[others])
    np.testing.assert_allclose(wrong, wrong.mean(), atol=0.01)


def test_a_channel_that_is_silent_in_these_pictures_is_no_reason_not_to_trust_it():
    found = calibrated(silent=True)
    np.testing.assert_array_equal(found.weights, 1)
    wrong = np.log(found.gains[:CHANNELS] / GAINS)
    np.testing.assert_allclose(wrong, wrong.mean(), atol=0.1)  # the silent one too
    others = np.delete(wrong, 5)
    np.testing.assert_allclose(others, others.mean(), atol=0.01)


@pytest.mark.parametrize("gain", [1.0, 1.05, 1.1, 1.2])
def test_a_common_gain_that_the_network_hides_is_found_by_the_ends_of_the_range(gain):
    """Without offsets, pictures of less contrast explain a weaker release exactly."""
    unbiased = functools.partial(local, offset=np.float32(0))
    truth = np.clip(0.5 + 3 * (TRUTH - 0.5), 0, 1)  # black and white in places
    release, faint = np.asarray(unbiased(truth)) / gain, 0.45 + (truth - 0.45) / gain
    np.testing.assert_allclose(unbiased(faint), release, atol=1e-4)
    # The pictures' root mean squares say what the gain is; what was found is below that.
    found = Calibration(np.ones(CHANNELS), np.ones(CHANNELS), faint, common=-np.log(gain))
    matcher = Matcher(unbiased, fit_prior(truth - faint * 0.9))
    # The last step that is halved three times is of 4 %; some worse counts as well.
    assert brightest(matcher, release, found, steps=40) == pytest.approx(gain, rel=0.015)


@pytest.mark.parametrize(("size", "count"), [(32, 16), (64, 4), (224, 4)])
def test_large_pictures_are_few(size, count):
    assert pictures_of(size) == count
