"""Gains of a release's channels, found with its pictures, by a layer of which all is known."""

import functools

import numpy as np
import pytest
from support.handmade_layers import CENTRED as CHANNELS
from support.handmade_layers import centred, pictures

from privynet_jax.attacks.pixel_prior import fit_prior
from privynet_jax.attacks.public.calibration import calibrate, pictures_of
from privynet_jax.images.parts import as_float

TRUTH = as_float(pictures(8, seed=1))
GAINS = np.exp(np.random.default_rng(0).normal(0.06, 0.05, CHANNELS)).astype(np.float32)


biased = functools.partial(centred, offset=np.float32(0.5))


@functools.cache
def calibrated(strange=False, silent=False):
    layer = biased
    if silent:  # in these pictures, and just so
        offsets = np.full(CHANNELS, 0.5, np.float32)
        offsets[5] -= biased(TRUTH)[..., 5].max()
        layer = functools.partial(centred, offset=offsets)
    release = np.asarray(layer(TRUTH)).copy()
    release[..., :CHANNELS] /= GAINS
    if strange:
        release[..., 3] = np.random.default_rng(2).random(release.shape[:3])
    blurred = (TRUTH + np.roll(TRUTH, 1, axis=1) + np.roll(TRUTH, 1, axis=2)) / 3
    return calibrate(layer, fit_prior(TRUTH - blurred), release, blurred, steps=150)


def test_gains_are_found_with_the_pictures():
    found = calibrated()
    wrong = np.log(found.gains[:CHANNELS] / GAINS)
    # Beside each other nearly exactly; what they share is too small, which `shared_gain` mends.
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


@pytest.mark.parametrize(("size", "count"), [(32, 16), (64, 4), (224, 4)])
def test_large_pictures_are_few(size, count):
    assert pictures_of(size) == count
