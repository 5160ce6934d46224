"""Mechanisms one after the other: by hand, and what of each holds for all."""

import math

import jax
import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.composed import Composed
from privynet_jax.mechanisms.noises import ChannelDropout, GaussianNoise, Quantisation
from privynet_jax.mechanisms.words import parse_mechanism, parse_mechanisms

KEY = jax.random.key(0)
X = np.random.default_rng(0).exponential(size=(4, 4, 6)).astype(np.float32)


def released(mechanism, x=X):
    secret = mechanism.secret(KEY, np.zeros((2, 8, 8, 3), np.uint8))
    return np.asarray(mechanism.of_representation(secret, KEY, x))


def test_one_after_the_other_in_the_order_that_is_given():
    clip, levels = GaussianNoise(clip=0.5, sigma=0.0), Quantisation(bits=2, peak=0.75)
    both, reverse = Composed((clip, levels)), Composed((levels, clip))
    np.testing.assert_allclose(released(both), released(levels, released(clip)))
    np.testing.assert_allclose(released(reverse), released(clip, released(levels)))
    assert np.abs(released(both) - released(reverse)).max() > 0.1
    np.testing.assert_allclose(both.expected(X), levels.expected(clip.expected(X)))


def test_parts_of_one_kind_have_randomness_of_their_own():
    noise = GaussianNoise(clip=math.inf, sigma=1.0)
    twice = Composed((noise, noise))
    many = np.zeros((40, 40, 6), np.float32)
    first = np.asarray(noise.of_representation(None, KEY, many))
    # Variances add up, where twice the same numbers would double the deviation. 9,600 numbers.
    alone = np.asarray(twice.of_representation(None, KEY, many))
    cut = np.maximum(first, 0)  # the second one leaves nothing negative before it adds
    assert alone.std() == pytest.approx(math.sqrt(1 + cut.var()), rel=0.03)


def test_a_guarantee_outlasts_what_comes_before_and_after():
    noise = GaussianNoise(clip=1.0, sigma=4.0)
    several = parse_mechanism("dropout:rate=0.5+gaussian:clip=1,sigma=4+quantise:bits=3")
    assert several.epsilon(1024) == noise.epsilon(1024)
    weaker = parse_mechanism("gaussian:clip=1,sigma=2+gaussian:clip=1,sigma=4")
    assert weaker.epsilon(1024) == noise.epsilon(1024)
    assert Composed((ChannelDropout(), Quantisation())).epsilon(1024) == math.inf


def test_words():
    text = "early_exit:steps=3,rate=0.1+gaussian:clip=1e+05,sigma=0.5"
    found = parse_mechanisms(f"none,{text},rmt:block=4,noise=2,dropout+quantise:bits=1,peak=3")
    assert [*map(str, found)] == [
        "none",
        "early_exit:steps=3,rate=0.1+gaussian:clip=100000,sigma=0.5",
        "rmt:block=4,noise=2",
        "dropout:rate=0.5+quantise:bits=1,peak=3,rounding=nearest",
    ]
    assert all(parse_mechanism(str(mechanism)) == mechanism for mechanism in found)
    assert found[1].trains_local
    assert parse_mechanism("arden_trained:hardness=0.2+quantise").hardness == 0.2
    assert found[1].is_random
    assert found[1].not_planned.startswith("its local NN has weights of its own")
    assert not found[3].not_planned


@pytest.mark.parametrize(
    "words", ["rmt+gaussian", "early_exit+nopeek", "none+dropout", "gaussian+aes:keys=one"]
)
def test_what_does_not_go_together(words):
    with pytest.raises(UserError, match=r"what is combined by \+ is two or more mechanisms around"):
        parse_mechanism(words)
