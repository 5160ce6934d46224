"""Channel guessing where the answer is known: distinct channels, identical ones."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from support.handmade_layers import distinct_layer, pictures, represented

from privynet_jax.attacks.public.channel_statistics import channel_statistics, chunks_of
from privynet_jax.attacks.public.guessing import _cost_alone, guess_channels, guess_layer
from privynet_jax.errors import UserError

CHANNELS, DEPTH = 24, 8


def statistics(x, size=16):
    return channel_statistics(chunks_of(x, size))


@pytest.fixture(scope="module")
def distinct():
    """Statistics of a layer, and of a release of other images with its channels."""
    layer = distinct_layer(CHANNELS)
    stream = np.random.default_rng(5)
    truth = stream.permutation(CHANNELS)[:DEPTH]
    own = represented(layer, pictures(192, seed=1), range(CHANNELS), np.ones(CHANNELS))
    scales = stream.uniform(0.01, 100, DEPTH)
    released = represented(layer, pictures(64, seed=2), truth, scales)
    return statistics(released), statistics(own), truth


def test_distinct_channels_are_all_found(distinct):
    release, layer, truth = distinct
    guess = guess_channels(release, layer)
    assert guess.channels == tuple(truth)
    assert guess.share_found(truth) == guess.share_found(truth, top=5) == 1
    # Of a release that ends in two silent channels no more is seen; these are not found.
    longer = [*truth, 98, 99]
    assert guess.share_found(longer) == guess.share_found(longer, top=5) == DEPTH / (DEPTH + 2)
    assert guess.confidence.shape == (DEPTH,)
    assert guess.confidence.min() > 0.5


def test_the_layer_is_the_one_whose_channels_fit(distinct):
    release, layer, truth = distinct
    unlike = distinct_layer(CHANNELS, seed=3)  # another layer with maps of this size
    of_own = represented(unlike, pictures(192, seed=1), range(CHANNELS), np.ones(CHANNELS))
    other = statistics(of_own)
    narrow = statistics(np.ones((32, 16, 16, DEPTH - 1), np.float32))
    found, guess = guess_layer(release, {1: other, 2: layer, 3: narrow})
    assert found == 2
    assert guess.channels == tuple(truth)
    # Statistics of two samples deviate by their noise, from the wrong layer's by far more.
    assert np.median(guess.misfits) < 3
    assert np.median(guess_channels(release, other).misfits) > 6
    with pytest.raises(UserError, match=r"8 released channels; .* have 7 of 3"):
        guess_layer(release, {3: narrow})


def test_a_single_channel_is_no_question():
    one = statistics(np.ones((16, 4, 4, 1), np.float32))
    guess = guess_channels(one, one)
    assert guess.channels == (0,)
    assert guess.confidence.tolist() == [1]
    assert guess.ranking.tolist() == [[0]]
    assert guess.share_found([0]) == guess.share_found([0], top=5) == 1


def noise_release(seed, copies=64):
    """Channels that nothing tells apart: independent noise of one kind."""
    stream = np.random.default_rng(seed)
    own = np.maximum(stream.normal(size=(192, 4, 4, copies)), 0)
    released = np.maximum(stream.normal(size=(64, 4, 4, DEPTH)), 0)
    return statistics(np.float32(released)), statistics(np.float32(own))


def test_channels_without_difference_are_found_no_more_than_by_chance():
    found, top, confidence = [], [], []
    for seed in range(12):
        truth = np.random.default_rng(1000 + seed).permutation(64)[:DEPTH]
        guess = guess_channels(*noise_release(seed))
        found.append(guess.share_found(truth))
        top.append(guess.share_found(truth, top=5))
        confidence.append(guess.confidence.mean())
    # 96 channels at a chance of 1 / 64 and 5 / 64: beyond these bounds in one of 10,000 cases.
    assert np.mean(found) < 8.5 / 96
    assert np.mean(top) < 20 / 96
    # And the attacker notices, though it takes the likeliest of 64 for likelier than it is.
    assert np.mean(confidence) < 0.5


def test_correlations_find_what_no_channel_tells_alone():
    # Eight anchors, each zero more often than the one before; and each with a follower. Followers
    # are alike in all that is theirs alone, but go with their own anchor.
    stream = np.random.default_rng(0)
    truth = np.array([9, 0, 5, 13, 1, 8, 3, 11])

    def make(count):
        noise = stream.normal(size=(2, count, 6, 6, 8))
        anchors = np.maximum(noise[0] + np.linspace(1, -1, 8), 0)
        followers = np.maximum(0.6 * noise[0] + 0.8 * noise[1], 0)
        return np.float32(np.concatenate([anchors, followers], axis=-1))

    release, layer = statistics(make(256)[..., truth]), statistics(make(512))
    guess = guess_channels(release, layer)
    assert guess.channels == tuple(truth)
    alone = linear_sum_assignment(_cost_alone(release, layer))[1]
    assert np.mean(alone == truth) < 0.9


def test_what_cannot_be_guessed_is_refused(distinct):
    release, layer, _ = distinct
    with pytest.raises(UserError, match="24 released channels; the layer has 8"):
        guess_channels(layer, release)
    smaller = statistics(np.ones((16, 2, 2, CHANNELS), np.float32))
    with pytest.raises(UserError, match="one size"):
        guess_channels(release, smaller)
