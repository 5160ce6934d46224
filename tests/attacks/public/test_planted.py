"""What one planted picture tells: layer, channels and gains, which statistics only guess."""

import dataclasses

import jax
import numpy as np
import pytest
from support.attack_checks import fit_one
from support.handmade_layers import distinct_layer, network_of, pictures, represented

from privynet_jax.attacks.base import NETWORK, Knowledge, Pairs
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.public.belief import believe, public_layers
from privynet_jax.attacks.public.planted import misfits_of, products_of
from privynet_jax.attacks.public.public_attack import PublicAttack
from privynet_jax.attacks.tuning import Budget
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.training.models.attackers import RESIDUAL, capacities_of_size

pytestmark = pytest.mark.computes
LAYERS = {3: distinct_layer(24, seed=3), 4: distinct_layer(24)}
network = network_of(LAYERS)
# The image itself, out of order, among others.
TRUTH = (7, 1, 13, 0, 20, 2)
OWN, PRIVATE = pictures(128, seed=1), pictures(96, seed=2)
SCALES = np.float32([1.5, 0.7, 1, 3, 0.2, 1.1])


def released(images, width=6):
    fill = [(0, 0)] * 3 + [(0, width - 6)]
    return np.pad(represented(LAYERS[4], images, TRUTH, SCALES), fill)


def planted(images, **kind):
    return Pairs(released(images, **kind).astype(np.float16), images)


@pytest.fixture(scope="module")
def layers():
    return public_layers(network, OWN)


def test_products_are_those_of_all_pictures_by_hand(layers):
    images = PRIVATE[:70]  # more than are looked at at once
    products = products_of(Pairs(released(images), images), layers, depth=6)
    assert list(products) == [3, 4]
    own = np.float64(represented(LAYERS[3], images, range(24), np.ones(24))).reshape(-1, 24)
    ours = np.float64(released(images)).reshape(-1, 6)
    assert products[3].values == len(own) == 70 * 16 * 16
    # Float32 sums of 27 products, in another order.
    np.testing.assert_allclose(products[3].both, ours.T @ own, rtol=1e-5)
    np.testing.assert_allclose(products[3].own, np.square(own).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(products[4].gains(TRUTH), SCALES, rtol=1e-5)
    # What the best multiple leaves of a channel, by least squares.
    [slope], [left], *_ = np.linalg.lstsq(own[:, [5]], ours[:, 2])
    assert products[3].gains([9, 9, 5, 9, 9, 9])[2] == pytest.approx(slope, rel=1e-4)
    by_hand = len(own) * np.log(left / np.square(ours[:, 2]).sum())
    assert products[3].misfits()[2, 5] == pytest.approx(by_hand, rel=1e-4)


def test_one_picture_tells_layer_channels_and_gains(layers):
    # Of another kind than the attacker's own pictures, whose statistics tell little.
    release = released(pictures(12, seed=3) // 4, width=8)
    found = believe(release, OWN, layers, planted(PRIVATE[:1], width=8))
    assert (found.layer, found.guess.channels, found.width) == (4, TRUTH, 8)
    assert found.guess.confidence.min() > 0.99
    assert found.used.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.measured.all()
    # Values are released as float16, whose errors of 2^-11 at most average out.
    np.testing.assert_allclose(found.release_rms, SCALES * found.layer_rms[list(TRUTH)], rtol=2e-4)
    alone = believe(release, OWN, layers)
    assert alone.guess.channels != TRUTH
    assert not alone.measured.any()


def test_channels_that_are_silent_on_the_pictures_are_told_by_statistics(layers):
    black = np.zeros_like(PRIVATE[:1])  # silent are the image itself, and others of the layer
    products = products_of(planted(black), layers, depth=6)
    silent = products[4].own == 0
    assert silent[:3].all()
    misfits = misfits_of(products)[4]
    assert (misfits[1][silent] == 0).all()
    assert (misfits[1][~silent] > 1000).all()  # 256 pixels' evidence
    assert np.isnan(products[4].gains(TRUTH)).tolist() == silent[list(TRUTH)].tolist()
    found = believe(released(PRIVATE), OWN, layers, planted(black))
    alone = believe(released(PRIVATE), OWN, layers)
    assert found.guess.channels == alone.guess.channels == TRUTH
    told = ~silent[list(TRUTH)]
    np.testing.assert_array_equal(found.measured, told)
    np.testing.assert_array_equal(found.release_rms[~told], alone.release_rms[~told])
    exact = SCALES * found.layer_rms[list(TRUTH)]
    np.testing.assert_allclose(found.release_rms[told], exact[told], rtol=1e-3)


def test_noise_on_what_is_released_leaves_the_right_channels_likeliest(layers):
    pairs = planted(PRIVATE[:8])
    noise = np.random.default_rng(0).normal(0, 0.5, pairs.representations.shape) * SCALES
    noisy = dataclasses.replace(pairs, representations=pairs.representations + noise)
    products = products_of(noisy, layers, depth=6)
    misfits = misfits_of(products)
    assert misfits[4].argmin(axis=1).tolist() == list(TRUTH)
    assert (misfits[3].min(axis=1)[[0, 2, 4]] > 100).all()  # which only the right layer has
    # 2,048 values of a noise half as strong as channels usually are: some percent.
    np.testing.assert_allclose(products[4].gains(TRUTH), SCALES, rtol=0.1)


def test_who_planted_pictures_rebuilds_at_least_as_well():
    training = Training(Budget(steps=3, batch_size=8), capacities=capacities_of_size(8, 0))
    small = InverseNetwork(RESIDUAL, (training.capacities[RESIDUAL],), training)
    attack = PublicAttack(small, steps=16, tuning_images=4)
    release = released(PRIVATE)
    alone = Pairs(release[:0], OWN)

    def quality(planted):
        known = Knowledge(NETWORK, network=network, observed=release, planted=planted)
        fitted = fit_one(attack, alone, known, jax.random.key(0))
        assert fitted.report["guess"].channels == TRUTH
        estimates = fitted.reconstruct(release[:24])
        return float(np.mean(psnr_db(np.float32(estimates), as_float(PRIVATE[:24]))))

    without, ten = quality(None), quality(planted(OWN[:10]))
    # Half of the channels is silent on black: their gains are found beside the others'.
    assert quality(planted(np.zeros_like(OWN[:1]))) > without - 0.5
    # Gains by statistics are off by about 1 %, by least squares by rounding.
    assert ten > without + 1
