"""Channel guessing where the answer is known: distinct channels, identical ones, candidates."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from support.handmade_layers import distinct_layer, pictures, represented

from privynet_jax.attacks.channel_statistics import channel_statistics, chunks_of
from privynet_jax.attacks.guessing import _assign, _cost_alone, guess_channels
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
    assert guess.confidence.shape == (DEPTH,)
    assert guess.confidence.min() > 0.5


def test_a_single_candidate_is_no_question(distinct):
    release, layer, truth = distinct
    first = release.chosen(np.array([0]))
    guess = guess_channels(first, layer, ascending=True, candidates=truth[:1])
    assert guess.channels == (truth[0],)
    assert guess.confidence.tolist() == [1]
    assert guess.ranking.tolist() == [[truth[0]]]
    assert guess.share_found(truth[:1]) == guess.share_found(truth[:1], top=5) == 1
    # Of two candidates one is guessed as ever.
    pair = guess_channels(first, layer, candidates=[truth[0], truth[1]])
    assert pair.channels == (truth[0],)


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


def test_candidates_narrow_the_guess(distinct):
    release, layer, truth = distinct
    others = np.setdiff1d(np.arange(CHANNELS), truth)
    candidates = [*truth, *others[:4]]
    guess = guess_channels(release, layer, candidates=candidates)
    assert guess.channels == tuple(truth)
    assert set(guess.ranking[0]) == set(candidates)


def test_a_known_order_is_kept():
    release, layer = noise_release(seed=3)
    guess = guess_channels(release, layer, ascending=True)
    assert list(guess.channels) == sorted(set(guess.channels))


def test_the_ordered_assignment_is_the_best_one():
    for seed in range(5):
        cost = np.random.default_rng(seed).normal(size=(4, 8))
        best = min(
            itertools.combinations(range(8), 4),
            key=lambda columns: sum(cost[row, column] for row, column in enumerate(columns)),
        )
        assert tuple(_assign(cost, ascending=True)) == best


def test_what_cannot_be_guessed_is_refused(distinct):
    release, layer, _ = distinct
    with pytest.raises(UserError, match="3 candidates"):
        guess_channels(release, layer, candidates=[1, 2, 3])
    with pytest.raises(UserError, match="from 0 to 23"):
        guess_channels(release, layer, candidates=range(17, 25))
    smaller = statistics(np.ones((16, 2, 2, CHANNELS), np.float32))
    with pytest.raises(UserError, match="one size"):
        guess_channels(release, smaller)
