"""What devices run against what was measured: the same numbers, or the same distribution."""

import jax
import numpy as np
import pytest
import scipy.stats

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.on_device import OnDevice
from privynet_jax.mechanisms.words import parse_mechanism

SEED, SHAPE = "5e" * 32, (6, 6, 8)
IMAGES = np.random.default_rng(0).integers(1, 256, (24, 12, 12, 3)).astype(np.uint8)


def represent(images):
    """One value of each picture's for each channel, some of them above every clip."""
    means = images.astype(np.float32).mean((1, 2, 3)) / 255
    places = np.random.default_rng(1).exponential(size=SHAPE).astype(np.float32)
    return means[:, None, None, None] * places


def released(words, images=IMAGES, unit=1.0, seed=SEED):
    return OnDevice(words, unit, seed).released(images, represent)


def measured(words, images=IMAGES):
    mechanism, keys = parse_mechanism(words), jax.random.split(jax.random.key(0), len(images))
    return np.array(
        jax.vmap(lambda k, x: mechanism.of_representation(None, k, x))(keys, represent(images))
    )


@pytest.mark.parametrize(
    "words",
    [
        *("gaussian:clip=0.2,sigma=0", "laplace:clip=0.1,scale=0", "gaussian:clip=inf,sigma=0"),
        *("quantise:bits=2,peak=1.5,rounding=nearest", "dropout:rate=0"),
        "arden:nullify=0,clip=0.1,scale=0",
        "gaussian:clip=0.2,sigma=0+quantise:bits=4,peak=1.5",
    ],
)
def test_without_chance_both_are_equal(words):
    mechanism = str(parse_mechanism(words))
    np.testing.assert_allclose(released(mechanism), measured(words), atol=1e-5)  # float32


@pytest.mark.parametrize(
    "words",
    ["gaussian:clip=0.2,sigma=0.7", "laplace:clip=0.1,scale=0.4", "arden:nullify=0,scale=0.3"],
)
def test_noise_has_the_same_distribution(words):
    mechanism = parse_mechanism(words)
    clean = np.array(jax.vmap(mechanism.expected)(represent(IMAGES)))
    one, other = released(str(mechanism)) - clean, measured(words) - clean
    # 6,912 numbers each: a wrong scale by 10 % gives p < 1e-6.
    assert scipy.stats.ks_2samp(one.ravel(), other.ravel()).pvalue > 1e-4
    assert scipy.stats.ks_2samp(1.1 * one.ravel(), 3 * other.ravel()).pvalue < 1e-6
    assert abs(np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1]) < 0.25  # 4.2 deviations of 288


def test_stochastic_rounding_keeps_the_mean_and_dropout_the_number_of_channels():
    words = "quantise:bits=1,peak=3,rounding=stochastic"
    values = released(words)
    assert {*np.unique(values)} == {0.0, 3.0}
    assert values.mean() == pytest.approx(represent(IMAGES).clip(0, 3).mean(), abs=0.1)
    dropped = (released("dropout:rate=0.5") == 0).all((1, 2))
    assert set(dropped.sum(1)) == {4}
    assert len({tuple(row) for row in dropped}) > 12  # of 24 pictures, among 70 subsets


def test_arden_blackens_pixels_before_the_network_sees_them():
    shown = []

    def look(images):
        shown.append(images)
        return represent(images)

    OnDevice("arden:clip=0.5,scale=0.2,nullify=0.3", 1.0, SEED).released(IMAGES, look)
    black = (shown[0] == 0).all(-1)
    assert black.mean() == pytest.approx(0.3, abs=0.03)  # 3,456 pixels, 3.8 deviations
    np.testing.assert_array_equal(shown[0][~black], IMAGES[~black])


def test_randomness_belongs_to_the_picture_and_to_the_secret_seed():
    words = "gaussian:clip=1,sigma=1"
    every, order = released(words), np.random.default_rng(2).permutation(len(IMAGES))
    np.testing.assert_array_equal(released(words, IMAGES[order]), every[order])
    np.testing.assert_array_equal(released(words, IMAGES[3:4]), every[3:4])
    assert (released(words, seed="5f" * 32) != every).mean() > 0.99
    np.testing.assert_allclose(released(words, unit=4.0), every / 4)
    assert released(words, IMAGES[:0]).shape == (0, *SHAPE)


def test_every_planned_mechanism_runs_and_no_other_does():
    several = ("dropout+laplace", "gaussian+quantise:bits=3", "quantise+gaussian+dropout")
    for words in ("none", "gaussian", "laplace", "arden", "dropout", "quantise", *several):
        mechanism = parse_mechanism(words)
        assert not mechanism.not_planned
        device = OnDevice(str(mechanism), 1.0, SEED)
        assert device.is_signed == bool((device.released(IMAGES, represent) < 0).any())
    for words in ("rmt", "early_exit:steps=3,rate=0.1"):
        assert parse_mechanism(words).not_planned
        with pytest.raises(UserError, match="no device runs the mechanism"):
            OnDevice(words, 1.0, SEED)
