"""What one planted picture tells: layer, channels and gains, which statistics only guess."""

import dataclasses

import jax
import numpy as np
import pytest
from support.attack_checks import fit_one
from support.handmade_layers import distinct_layer, network_of, pictures, represented

from privynet_jax.attacks.base import NETWORK, FittedAttack, Knowledge, Pairs
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.public import public_attack
from privynet_jax.attacks.public.belief import believe, public_layers
from privynet_jax.attacks.public.calibration import Calibration
from privynet_jax.attacks.public.planted import misfits_of, products_of
from privynet_jax.attacks.public.public_attack import PublicAttack
from privynet_jax.training.models.attackers import RESIDUAL

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


def test_attacks_know_gains_of_planted_pictures_and_find_the_others_beside_them(monkeypatch):
    attack = PublicAttack(InverseNetwork(RESIDUAL, (), Training()))
    # Networks, and what follows them, are nobody's business here.
    monkeypatch.setattr(InverseNetwork, "trained", lambda _, made, *given: made)
    monkeypatch.setattr(PublicAttack, "_optimising", lambda _, own, *given: own)
    release = released(PRIVATE)

    def believed(images):
        known = Knowledge(NETWORK, None, network, release, planted=planted(images))
        return fit_one(attack, Pairs(release[:0], OWN), known, jax.random.key(0))

    ten, black = believed(OWN[:10]), believed(np.zeros_like(OWN[:1]))
    assert ten.measured.all()
    assert 0 < np.count_nonzero(black.measured) < 6
    monkeypatch.undo()

    # What calibrating finds of measured ones, all have in common.
    gains = np.exp(np.random.default_rng(0).normal(0.1, 0.1, 6))
    found = Calibration(gains, np.ones(6), None, 0.0, 0.0)
    monkeypatch.setattr(public_attack, "calibrate", lambda *given: found)
    own = None, None
    warm = FittedAttack(lambda x: x, {})
    after, trust, doubt = attack._calibrated(black, None, release[:4], own, None, warm)
    told = black.measured
    beside = gains / np.exp(np.log(gains[told]).mean())
    np.testing.assert_array_equal(after.release_rms[told], black.release_rms[told])
    np.testing.assert_allclose(after.release_rms[~told], (black.release_rms / beside)[~told])
    assert doubt == 0
    assert (trust == 1).all()
