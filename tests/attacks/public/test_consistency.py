"""A release is asked whether a guess is right: what it says of right and of wrong channels."""

import jax.numpy as jnp
import numpy as np
from support.handmade_layers import distinct_layer, pictures, represented

from privynet_jax.attacks.public.consistency import check_guess, unexplained

LAYER = distinct_layer(24)
TRUTH = (7, 1, 13, 0, 20, 2, 9, 11)
OWN, PRIVATE = pictures(160, seed=1), pictures(64, seed=2)
EVERYTHING = represented(LAYER, OWN, range(24), np.ones(24))
RMS = np.sqrt(np.mean(np.square(EVERYTHING), axis=(0, 1, 2)))
RELEASED = represented(LAYER, PRIVATE, TRUTH, 1 / RMS[list(TRUTH)])


def of_layer(images):
    return np.asarray(LAYER(jnp.asarray(images, jnp.float32) / 255)) / RMS


def checked(guess, release=RELEASED):
    return check_guess(guess, release, EVERYTHING / RMS, OWN, of_layer)


def test_the_right_channels_are_left_alone():
    found = checked(TRUTH)
    assert tuple(found.channels) == TRUTH
    assert found.trusted.all()


def test_wrong_channels_are_put_right():
    found = checked((7, 1, 13, 15, 22, 2, 9, 11))
    assert tuple(found.channels) == TRUTH
    assert found.trusted.all()


def test_what_no_channel_of_the_layer_gives_is_left_out():
    strange = RELEASED.copy()
    strange[..., 4] = np.maximum(np.random.default_rng(0).normal(size=RELEASED.shape[:3]), 0)
    found = checked(TRUTH, strange)
    assert found.trusted.tolist() == [True] * 4 + [False] + [True] * 3
    assert np.delete(found.channels, 4).tolist() == [c for c in TRUTH if c != 20]


def test_where_most_are_wrong_nothing_is_changed():
    wrong = (8, 4, 5, 6, 10, 12, 14, 15)
    found = checked(wrong)
    assert tuple(found.channels) == wrong
    assert found.trusted.all()


def test_what_is_unexplained_is_one_minus_the_squared_cosine():
    seen = np.float32([[3, 1], [4, 0]]).reshape(2, 1, 1, 2)
    predicted = np.float32([[6, 4, 0], [8, -3, 2]]).reshape(2, 1, 1, 3)
    # (3, 4) beside (6, 8), (4, -3) and (0, 2); then (1, 0).
    expected = [[0, 1, 1 - (8 / 10) ** 2], [1 - 0.36, 1 - 0.64, 1]]
    np.testing.assert_allclose(unexplained(seen, predicted), expected, atol=1e-6)
