"""Direct optimisation finds planted channels."""

import math

import numpy as np
import pytest

from privynet_jax.selection.search import pool_of, search
from privynet_jax.selection.subset_scores import Estimates

CHANNELS, DEPTH = 24, 5


def planted(useful, revealing, noise=0.0):
    """A made-up score: subsets gain by useful channels and lose privacy by revealing ones."""
    stream = np.random.default_rng(7)

    def score(subsets):
        accuracy = [useful[mine].sum() for mine in subsets]
        privacy = [revealing[mine].sum() for mine in subsets]
        return Estimates(
            np.array(accuracy) + noise * stream.standard_normal(len(subsets)),
            (np.array(privacy) + noise * stream.standard_normal(len(subsets)))[:, None],
        )

    return score


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_finds_the_best_channels_of_a_planted_objective(weight):
    rng = np.random.default_rng(1)
    useful, revealing = rng.standard_normal((2, CHANNELS))
    utilities = search(
        planted(useful, revealing, noise=0.05),
        CHANNELS,
        DEPTH,
        np.random.default_rng(0),
        privacy_weight=weight,
    )
    # Units are the spread over random subsets, which of sums is that of the summands.
    worth = useful / useful.std() - weight * revealing / revealing.std()
    best = np.argsort(-worth)[:DEPTH]
    assert set(np.argsort(-utilities)[:DEPTH]) == set(best)


def test_prefers_what_is_good_together():
    """Half of a pair is worth nothing, which no score of single channels could tell."""
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]

    def score(subsets):
        together = [sum(a in mine and b in mine for a, b in pairs) for mine in subsets]
        return Estimates(np.array(together, float), np.zeros((len(subsets), 1)))

    utilities = search(score, CHANNELS, 4, np.random.default_rng(0))
    chosen = set(map(int, np.argsort(-utilities)[:4]))
    assert sum(a in chosen and b in chosen for a, b in pairs) == 2


def test_search_depends_on_its_stream_alone():
    rng = np.random.default_rng(1)
    score = planted(*rng.standard_normal((2, CHANNELS)))
    one, again, other = (
        search(score, CHANNELS, DEPTH, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_tells_its_progress():
    told = []
    score = planted(*np.ones((2, CHANNELS)))
    search(score, CHANNELS, DEPTH, np.random.default_rng(0), progress=told.append)
    assert sum(told) == pytest.approx(1)


@pytest.mark.parametrize(("channels", "depth"), [(128, 16), (128, 8), (64, 32), (512, 4)])
def test_a_pool_keeps_its_secret_and_is_worth_most(channels, depth):
    utilities = np.random.default_rng(0).standard_normal(channels)
    core, candidates = pool_of(utilities, depth)
    order = list(map(int, np.argsort(-utilities)))
    assert core == tuple(sorted(order[: len(core)]))
    assert candidates == tuple(sorted(order[len(core) : len(core) + len(candidates)]))
    left = depth - len(core)
    assert math.comb(len(candidates) - 1, left) < 2**20 <= math.comb(len(candidates), left)

    def worth(core, count):
        mean = sum(utilities[order[core : core + count]]) / count
        return sum(utilities[order[:core]]) + (depth - core) * mean

    others = [
        worth(k, count)
        for k in range(depth)
        for count in range(depth - k, channels - k + 1)
        if math.comb(count, depth - k) >= 2**20
    ]
    assert worth(len(core), len(candidates)) == pytest.approx(max(others))


@pytest.mark.parametrize(("channels", "depth"), [(64, 64), (64, 2)])
def test_where_all_channels_are_too_few_the_draw_is_from_all(channels, depth):
    assert pool_of(np.arange(channels), depth) == ((), tuple(range(channels)))


def test_attackers_count_by_their_mean():
    rng = np.random.default_rng(1)
    useful, first, second = rng.standard_normal((3, CHANNELS))

    def score(subsets):
        sums = np.array([[v[mine].sum() for v in (useful, first, second)] for mine in subsets])
        return Estimates(sums[:, 0], sums[:, 1:])

    utilities = search(score, CHANNELS, DEPTH, np.random.default_rng(0), privacy_weight=2.0)
    worth = useful / useful.std() - first / first.std() - second / second.std()
    best = np.argsort(-worth)[:DEPTH]
    assert len(set(np.argsort(-utilities)[:DEPTH]) & set(best)) >= DEPTH - 1
