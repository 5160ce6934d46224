"""Membership inference with known answers: LiRA and RMIA by hand, and networks that memorise."""

import jax
import numpy as np
import pytest
from scipy import special, stats
from support.small_release import random_release

from privynet_jax.attacks.inference import membership
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.attacks.inference.membership import (
    CONTROL,
    FALSE_POSITIVES,
    LOSS,
    OFFLINE,
    OFFLINE_RMIA,
    ONLINE,
    ONLINE_RMIA,
    attack,
    balanced_halves,
    confidence,
    half_of_groups,
    networks,
    offline_lira,
    offline_rmia,
    online_lira,
    online_rmia,
)
from privynet_jax.attacks.inference.rates import rates
from privynet_jax.deployment.cloud import cloud_training
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.dealing import ClassifierSettings
from privynet_jax.errors import UserError
from privynet_jax.training.courses.release_training import ReleaseTraining
from privynet_jax.training.models.networks import cloud_nn, network_for
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

METHODS = (LOSS, OFFLINE, ONLINE, OFFLINE_RMIA, ONLINE_RMIA)

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


def test_rmia_ranks_as_the_share_of_pictures_whose_ratio_is_smaller():
    """Of its definition: how many z have p(x | network) / p(x) > p(z | network) / p(z)."""
    stream = np.random.default_rng(4)
    network, others = stream.uniform(0.01, 0.99, 50), stream.uniform(0.01, 0.99, (6, 50))
    ratios = network / others.mean(axis=0)
    shares = np.array([(ratio > ratios).mean() for ratio in ratios])
    found = online_rmia(special.logit(network), special.logit(others))
    np.testing.assert_allclose(found, np.log(ratios))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(shares))
    # Offline, pictures z that nobody saw are looked up the same way: their mean is 0.65 p + 0.35.
    ratios = network / (0.65 * others.mean(axis=0) + 0.35)
    shares = np.array([(ratio > ratios).mean() for ratio in ratios])
    found = offline_rmia(special.logit(network), special.logit(others))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(shares))
    # By hand: 0.8 / ((1.3 * 0.5 + 0.7) / 2).
    one = offline_rmia(special.logit(np.array([0.8])), special.logit(np.array([[0.4], [0.6]])))
    np.testing.assert_allclose(one, np.log(0.8 / 0.675))
    # A sure network's probability rounds to 1, whose logarithm is 0, not less.
    assert online_rmia(np.array([800.0]), np.array([[800.0]])) == pytest.approx(0)


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


def test_a_coin_halves_the_groups_of_every_class():
    labels = np.repeat([0, 1, 2], [30, 50, 20])
    groups = np.concatenate(
        [np.arange(30) // 5, 100 + np.arange(50) // 5, 200 + np.arange(20) // 4]
    )
    sides = np.stack([half_of_groups(labels, groups, key) for key in jax.random.split(KEY, 400)])
    for group in np.unique(groups):  # whole ones, each on either side as often: 10 is one deviation
        assert (sides[:, groups == group] == sides[:, groups == group][:, :1]).all()
        assert abs(sides[:, groups == group][:, 0].sum() - 200) < 50
    per_class = [sides[:, labels == label].mean(axis=1) for label in range(3)]
    assert all((share == 0.5).all() for share in per_class[:2])
    assert set(np.round(per_class[2], 9)) == {0.4, 0.6}  # of five groups two or three


def test_too_few_groups_are_refused():
    few = Labelled(np.ones((8, 4, 4, 2), np.float32), np.zeros(8, np.int32))
    network, training = cloud_nn(2, 16, 4), ReleaseTraining(Schedule(1, 4))
    with pytest.raises(UserError, match="1 groups of images that overlap leave some of 2 shadow"):
        attack(few, np.zeros(8, int), few, network, training, KEY, shadows=2)


def test_a_network_that_would_learn_from_nothing_is_refused():
    """Half of each class is held out; with this key a network is given those alone."""
    few = Labelled(np.ones((4, 4, 4, 2), np.float32), np.int32([0, 0, 1, 1]))
    training = ReleaseTraining(Schedule(1, 4), validation_fraction=0.5)
    given = few, np.arange(4), few, cloud_nn(2, 16, 4), training, jax.random.key(4)
    with pytest.raises(UserError, match="a network would learn from no image; give more images"):
        attack(*given, shadows=2)


@pytest.fixture(scope="module")
def memorised():
    """Noise that tells little of its labels: of those learnt from, networks memorise the rest.

    It tells enough for held-out rows to choose a moment at which that has happened.
    """
    stream = np.random.default_rng(4)
    patterns = stream.normal(0, 0.55, (4, 4, 4, 8))

    def noise(count):
        labels = stream.integers(4, size=count).astype(np.int32)
        x = np.abs(stream.normal(size=(count, 4, 4, 8)) + patterns[labels])
        return Labelled(x.astype(np.float32), labels)

    schedule = Schedule(steps=300, batch_size=25, learning_rate=5e-3)
    training = ReleaseTraining(schedule, validation_fraction=0.3, patience=20)
    told = []
    # Halves of the candidates and of the attacker's own are as many as the members.
    data, network = (noise(300), np.arange(300), noise(300)), cloud_nn(4, image_size=16, width=16)
    with session(progress=told.append):
        found = attack(*data, network, training, KEY, shadows=4)
    return found, sum(told)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_memorised_gives_its_members_away(memorised, method):
    found = memorised[0][method]
    assert found.auc.value > 0.8
    assert found.auc.low > 0.5
    # At a false positive rate of 1 %, chance is right about one member in a hundred: about ten of
    # them once in 10^7 times.
    assert found.tpr.value >= 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_the_members_gives_nothing_away(memorised, method):
    assert set(memorised[0]) == {*METHODS, *(CONTROL + m for m in METHODS)}
    found = memorised[0][CONTROL + method]
    # By chance, the standard error is sqrt(211 / (12 * 105 * 105)) = 0.040 (Mann and Whitney).
    assert abs(found.auc.value - 0.5) < 4 * 0.040
    # One of the 105 others may be accused. That 15 members are caught takes at most one other
    # among the 16 highest scores: 17 / 2^16.
    assert found.tpr.value < 0.15


def test_networks_are_trained_as_the_cloud_trains(monkeypatch):
    """One course for all, by the settings of `train_cloud`; who is held out is nobody's example."""
    seen = {}

    def watch(module):
        seen[module], original = [], module.train

        def watched(task, members, course):
            seen[module].append((task, members, course))
            return original(task, members, course)

        monkeypatch.setattr(module, "train", watched)

    watch(cloud_training)
    watch(membership)
    release, schedule = random_release(rows=120), Schedule(steps=4, batch_size=8)
    settings = ClassifierSettings(schedule, width=4)
    cloud_training.train_classifier(join_releases([release]), settings)
    data = Labelled(release.representations, release.labels)
    training, scored = ReleaseTraining(schedule), []
    monkeypatch.setattr(membership, "rates", lambda *sides: scored.append(sum(map(len, sides[:2]))))
    shape = release.representations.shape[1:]
    network = network_for(shape, len(release.classes), settings.width)
    attack(data, np.arange(120), data, network, training, KEY, shadows=2)
    [(task, [member], course)] = seen[cloud_training]
    target, online, offline = seen[membership]
    for theirs, members, _ in seen[membership]:
        assert theirs == task
        for each in members:
            assert each.learning_rate == member.learning_rate
            share = len(each.held_out) / (len(each.rows) + len(each.held_out))
            assert share == pytest.approx(len(member.held_out) / 120, abs=0.07)
    # Shadows of 60 rows learn for as long as the target, which has 60.
    assert target[2] == online[2] == offline[2] == course
    assert (course.patience, course.validations) == (6, 20)
    examples, held_out = (
        np.unique(np.concatenate([getattr(each, name) for _, those, _ in found for each in those]))
        for found in ((target, online, offline),)
        for name in ("rows", "held_out")
    )
    assert not set(examples) & set(held_out)
    assert set(scored) == {(examples < 120).sum()}
    assert len(held_out[held_out < 120]) == len(member.held_out)


def test_progress_counts_networks(memorised):
    assert memorised[1] == pytest.approx(networks(4))
    assert networks(4) == 10


@pytest.mark.parametrize("shadows", [0, 3])
def test_shadows_are_even(shadows):
    nothing = Labelled(np.zeros((2, 4, 4, 1)), np.zeros(2, int))
    network, training = cloud_nn(2, 16), ReleaseTraining(Schedule(1))
    with pytest.raises(UserError, match=f"{shadows} shadow networks; allowed are even"):
        attack(nothing, nothing, nothing, network, training, KEY, shadows=shadows)
