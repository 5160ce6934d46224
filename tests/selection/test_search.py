"""Direct optimisation finds planted channels."""

import numpy as np
import pytest

from privynet_jax.selection.search import search
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
    found = search(
        planted(useful, revealing, noise=0.05),
        CHANNELS,
        DEPTH,
        np.random.default_rng(0),
        privacy_weight=weight,
    )
    # Units are the spread over random subsets, which of sums is that of the summands.
    worth = useful / useful.std() - weight * revealing / revealing.std()
    assert found == tuple(sorted(np.argsort(-worth)[:DEPTH]))


def test_prefers_what_is_good_together():
    """Half of a pair is worth nothing, which no score of single channels could tell."""
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]

    def score(subsets):
        together = [sum(a in mine and b in mine for a, b in pairs) for mine in subsets]
        return Estimates(np.array(together, float), np.zeros((len(subsets), 1)))

    chosen = search(score, CHANNELS, 4, np.random.default_rng(0))
    assert sum(a in chosen and b in chosen for a, b in pairs) == 2


def test_search_depends_on_its_stream_alone():
    # All channels are alike, so chance decides.
    nothing = np.zeros((2, CHANNELS))
    one, again, other = (
        search(planted(*nothing, noise=1.0), CHANNELS, DEPTH, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert one == again != other


def test_tells_its_progress():
    told = []
    score = planted(*np.ones((2, CHANNELS)))
    search(score, CHANNELS, DEPTH, np.random.default_rng(0), progress=told.append)
    assert sum(told) == pytest.approx(1)


def test_all_channels_are_the_best_of_all_channels():
    score = planted(*np.ones((2, DEPTH)))
    assert search(score, DEPTH, DEPTH, np.random.default_rng(0)) == tuple(range(DEPTH))


def test_attackers_count_by_their_mean():
    rng = np.random.default_rng(1)
    useful, first, second = rng.standard_normal((3, CHANNELS))

    def score(subsets):
        sums = np.array([[v[mine].sum() for v in (useful, first, second)] for mine in subsets])
        return Estimates(sums[:, 0], sums[:, 1:])

    found = search(score, CHANNELS, DEPTH, np.random.default_rng(0), privacy_weight=2.0)
    worth = useful / useful.std() - first / first.std() - second / second.std()
    assert len({*found} & {*np.argsort(-worth)[:DEPTH]}) >= DEPTH - 1
