"""Membership inference with known answers: memorised members, and none; LiRA by hand."""

import jax
import numpy as np
import pytest
from scipy import special, stats

from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.attacks.inference.membership import (
    CONTROL,
    FALSE_POSITIVES,
    LOSS,
    OFFLINE,
    ONLINE,
    attack,
    balanced_halves,
    confidence,
    networks,
    offline_lira,
    online_lira,
)
from privynet_jax.attacks.inference.roc import rates
from privynet_jax.errors import UserError
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

METHODS = (LOSS, OFFLINE, ONLINE)

KEY = jax.random.key(11)
pytestmark = pytest.mark.computes


def test_confidences_are_logits_of_probabilities():
    stream = np.random.default_rng(0)
    logits, labels = stream.normal(size=(20, 5)), stream.integers(5, size=20)
    p = special.softmax(logits, axis=1)[np.arange(20), labels]
    np.testing.assert_allclose(confidence(logits, labels), special.logit(p))
    # Its arguments stay as they are.
    np.testing.assert_array_equal(confidence(logits, labels), confidence(logits, labels))
    assert np.isfinite(logits).all()
    # Where the probability rounds to 1, its logit does not become infinite.
    assert confidence(np.array([[100.0, 0.0]]), np.array([0])) == pytest.approx(100)


def test_online_lira_by_hand():
    """Two candidates, four shadows; variances are in common to both."""
    shadows = np.array([[1.0, 8.0], [3.0, 6.0], [0.0, 5.0], [-2.0, 1.0]])
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    target = np.array([2.0, 3.5])
    # Deviations of the inside ones are -1, 1, 1, -1, of 2 degrees of freedom; outside 1, -1, 2, -2.
    spread_in, spread_out = np.sqrt(4 / 2), np.sqrt(10 / 2)
    expected = [
        stats.norm.logpdf(2.0, 2, spread_in) - stats.norm.logpdf(2.0, -1, spread_out),
        stats.norm.logpdf(3.5, 7, spread_in) - stats.norm.logpdf(3.5, 3, spread_out),
    ]
    np.testing.assert_allclose(online_lira(target, shadows, inside), expected)


def test_offline_lira_by_hand():
    outside = np.array([[1.0, 8.0], [3.0, 6.0]])
    # Deviations -1, 1, 1, -1, of 2 degrees of freedom.
    np.testing.assert_allclose(
        offline_lira(np.array([3.0, 5.0]), outside), np.array([1.0, -2.0]) / np.sqrt(2)
    )


def test_halves_are_balanced_and_random():
    inside = balanced_halves(6, 1000, KEY)
    assert (inside.sum(axis=0) == 3).all()
    # Each shadow has about half: a standard deviation of 16.
    assert np.abs(inside.sum(axis=1) - 500).max() < 80
    assert len(np.unique(inside, axis=1).T) == 20  # all ways to choose 3 of 6
    np.testing.assert_array_equal(inside, balanced_halves(6, 1000, KEY))


def test_lira_finds_members_by_candidates_own_difficulty():
    """Easy others look surer than hard members: only calibration per candidate sees through."""
    stream = np.random.default_rng(2)
    difficulty = stream.normal(0, 5, 400)
    inside = balanced_halves(16, 400, KEY)
    shadows = difficulty + 1.5 * inside + 0.5 * stream.normal(size=(16, 400))
    members = np.arange(400) < 200
    target = difficulty + 1.5 * members + 0.5 * stream.normal(size=400)
    outside = difficulty + 0.5 * stream.normal(size=(16, 400))

    def auc(scores):
        return rates(scores[members], scores[~members], FALSE_POSITIVES).auc.value

    # Two normals 1.5 apart with deviations of 0.5: Phi(1.5 / (0.5 sqrt(2))) = 0.983.
    assert auc(online_lira(target, shadows, inside)) > 0.95
    assert auc(offline_lira(target, outside)) > 0.95
    assert auc(target) < 0.7


@pytest.fixture(scope="module")
def memorised():
    """Noise with labels that have nothing to do with it: what is known of it was memorised."""
    stream = np.random.default_rng(4)

    def noise(count):
        x = np.abs(stream.normal(size=(count, 4, 4, 8))).astype(np.float32)
        return Labelled(x, stream.integers(4, size=count).astype(np.int32))

    schedule = Schedule(steps=150, batch_size=25, learning_rate=5e-3)
    told = []
    # Halves of the candidates and of the attacker's own are as many as the members.
    data, network = (noise(100), noise(100), noise(200)), cloud_nn(4, image_size=16, width=16)
    with session(progress=told.append):
        found = attack(*data, network, schedule, KEY, shadows=2)
    return found, sum(told)


@pytest.mark.parametrize("method", [LOSS, OFFLINE, ONLINE])
def test_a_network_that_memorised_gives_its_members_away(memorised, method):
    found = memorised[0][method]
    assert found.auc.value > 0.9
    assert found.auc.low > 0.5
    # At a false positive rate of 1 %, chance is right about one member in a hundred: about ten of
    # them once in 10^7 times.
    assert found.tpr.value >= 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_the_members_gives_nothing_away(memorised, method):
    assert set(memorised[0]) == {LOSS, OFFLINE, ONLINE, *(CONTROL + m for m in METHODS)}
    found = memorised[0][CONTROL + method]
    # By chance, the standard error is sqrt(201 / (12 * 100 * 100)) = 0.041 (Mann and Whitney).
    assert abs(found.auc.value - 0.5) < 4 * 0.041
    # One of the 100 others may be accused. That 15 members are caught takes at most one other
    # among the 16 highest scores: 17 / 2^16.
    assert found.tpr.value < 0.15


def test_scores_that_mean_nothing_catch_as_many_as_they_accuse_wrongly():
    stream = np.random.default_rng(8)
    found = rates(stream.normal(size=4000), stream.normal(size=4000), FALSE_POSITIVES)
    # Standard errors are sqrt(8001 / 12) / 4000 = 0.0065, and sqrt(2 * 0.01 / 4000) = 0.0022.
    assert found.auc.value == pytest.approx(0.5, abs=4 * 0.0065)
    assert found.tpr.value == pytest.approx(0.01, abs=4 * 0.0022)
    assert found.auc.low < found.auc.value < found.auc.high


def test_progress_counts_networks(memorised):
    assert memorised[1] == pytest.approx(networks(2))
    assert networks(2) == 6


@pytest.mark.parametrize("shadows", [0, 3])
def test_shadows_are_even(shadows):
    nothing = Labelled(np.zeros((2, 4, 4, 1)), np.zeros(2, int))
    with pytest.raises(UserError, match=f"{shadows} shadow networks; allowed are even"):
        attack(nothing, nothing, nothing, cloud_nn(2, 16), Schedule(1), KEY, shadows=shadows)
