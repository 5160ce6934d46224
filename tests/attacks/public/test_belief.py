"""What is believed of a release, and what the release says to that."""

import dataclasses

import numpy as np
import pytest
from support.handmade_layers import distinct_layer, network_of, pictures, represented

from privynet_jax.attacks.public.belief import believe, public_layers
from privynet_jax.backbone.features.extraction import scales_of

LAYERS = {3: distinct_layer(24, seed=3), 4: distinct_layer(24)}
NETWORK = network_of(LAYERS)
# The image itself, out of order, among others.
TRUTH = (7, 1, 13, 0, 20, 2)
OWN, PRIVATE = pictures(192, seed=1), pictures(96, seed=2)
SCALES = np.float32([1.5, 0.7, 1, 3, 0.2, 1.1])
RELEASED = np.pad(represented(LAYERS[4], PRIVATE, TRUTH, SCALES), [(0, 0)] * 3 + [(0, 2)])


@pytest.fixture(scope="module")
def layers():
    return public_layers(NETWORK, OWN)


@pytest.fixture(scope="module")
def believed(layers):
    found = believe(RELEASED, OWN, layers)
    # As if the release's strength had been known.
    return dataclasses.replace(found, release_rms=SCALES * found.layer_rms[list(TRUTH)])


def test_releases_and_own_pictures_meet_on_one_scale(layers, believed):
    assert (believed.layer, believed.guess.channels, believed.width) == (4, TRUTH, 8)
    normalised = believed.normalised(RELEASED)
    of_pictures = believed.of_pictures(layers[4], PRIVATE)
    # Float32 sums of 27 products, in another order.
    np.testing.assert_allclose(normalised, of_pictures, rtol=1e-4, atol=1e-5)
    assert not normalised[..., 6:].any()
    local = believed.local(NETWORK)(np.float32(PRIVATE[:5]) / 255)
    np.testing.assert_allclose(local, of_pictures[:5], rtol=1e-4, atol=1e-5)


def test_so_do_those_of_channels_too_faint_to_be_brought_to_one():
    faintness = np.ones(24, np.float32)
    faintness[13] = 2e-3

    def faint(images):
        return distinct_layer(24)(images) * faintness

    layers = public_layers(network_of({3: LAYERS[3], 4: faint}), OWN)
    rms = np.sqrt(np.square(represented(faint, PRIVATE, range(24), 1)).mean(axis=(0, 1, 2)))
    assert rms[13] < rms.mean() / 200
    released = represented(faint, PRIVATE, TRUTH, scales_of(rms)[list(TRUTH)])
    found = believe(released, OWN, layers)
    assert found.guess.channels == TRUTH
    normalised, own = found.normalised(released), found.of_pictures(layers[4], PRIVATE)
    # Some percent off, as root mean squares of other pictures are; they were 2.2 times as large.
    np.testing.assert_allclose(normalised[..., 2].std(), own[..., 2].std(), rtol=0.1)


def test_what_is_not_used_takes_no_place(believed):
    without = dataclasses.replace(
        believed, used=np.array([0, 1, 3, 5]), release_rms=believed.release_rms[[0, 1, 3, 5]]
    )
    assert without.channels.tolist() == [7, 1, 0, 2]
    chosen = believed.normalised(RELEASED)[..., [0, 1, 3, 5]]
    np.testing.assert_array_equal(without.normalised(RELEASED)[..., :4], chosen)
    assert not without.normalised(RELEASED)[..., 4:].any()


def test_gains_change_what_is_released_not_what_is_owned(believed):
    gains = np.float64([1.1, 1, 0.9, 1, 1, 2, 7, 7])
    found = believed.calibrated(gains)
    expected = believed.normalised(RELEASED)[..., :6] * gains[:6]
    np.testing.assert_allclose(found.normalised(RELEASED)[..., :6], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.layer_rms, believed.layer_rms)
