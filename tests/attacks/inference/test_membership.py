"""Membership inference with known answers; LiRA by hand; ROC curves against scikit-learn."""

import jax
import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

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
from privynet_jax.attacks.inference.rates import area, rates, roc, true_positives
from privynet_jax.errors import UserError
from privynet_jax.results.statistics import RESAMPLES, Interval
from privynet_jax.training.models.networks import cloud_nn
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
    with pytest.raises(UserError, match="1 groups of images that overlap leave some of 2 shadow"):
        attack(few, np.zeros(8, int), few, cloud_nn(2, 16, 4), Schedule(1, 4), KEY, shadows=2)


def test_intervals_of_clusters_draw_whole_clusters():
    stream = np.random.default_rng(3)
    members, others = (np.repeat(stream.normal(size=12), 20) for _ in range(2))
    clusters = (np.repeat(np.arange(12), 20), np.repeat(np.arange(12), 20))
    apart, whole = (rates(members, others, 0.1, groups).auc for groups in (None, clusters))
    # As 12 images say, not as 240: wider by sqrt(20).
    assert whole.margin / apart.margin == pytest.approx(20**0.5, rel=0.25)
    assert whole.value == apart.value


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
    data, network = (noise(200), np.arange(200), noise(200)), cloud_nn(4, image_size=16, width=16)
    with session(progress=told.append):
        found = attack(*data, network, schedule, KEY, shadows=2)
    return found, sum(told)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_memorised_gives_its_members_away(memorised, method):
    found = memorised[0][method]
    assert found.auc.value > 0.9
    assert found.auc.low > 0.5
    # At a false positive rate of 1 %, chance is right about one member in a hundred: about ten of
    # them once in 10^7 times.
    assert found.tpr.value >= 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_the_members_gives_nothing_away(memorised, method):
    assert set(memorised[0]) == {*METHODS, *(CONTROL + m for m in METHODS)}
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


# ROC curves.


def sklearn_curve(members, others):
    truth = np.repeat([1, 0], [len(members), len(others)])
    return metrics.roc_curve(truth, np.concatenate([members, others]), drop_intermediate=False)


@pytest.mark.parametrize("digits", [0, 1, 9])
@pytest.mark.parametrize("seed", range(4))
def test_curve_and_area_are_scikit_learn_s(digits, seed):
    stream = np.random.default_rng(seed)
    # Rounded to whole numbers nearly all scores are tied.
    members = np.round(stream.normal(0.7, 1, 83), digits)
    others = np.round(stream.normal(0, 1, 131), digits)
    curve = roc(members, others)
    false, true, _ = sklearn_curve(members, others)
    np.testing.assert_allclose(curve.false, false)
    np.testing.assert_allclose(curve.true, true)
    truth = np.repeat([1, 0], [83, 131])
    expected = metrics.roc_auc_score(truth, np.concatenate([members, others]))
    assert area(curve) == pytest.approx(expected)
    for at in (0.0, 0.01, 0.1, 1.0):
        assert true_positives(curve, at) == true[false <= at].max()


def test_by_hand():
    curve = roc(np.array([3.0, 2, 2, 0]), np.array([2.0, 1, 1, 0]))
    np.testing.assert_array_equal(curve.false, [0, 0, 0.25, 0.75, 1])
    np.testing.assert_array_equal(curve.true, [0, 0.25, 0.75, 0.75, 1])
    # 4 + 2 * 3.5 + 0.5 of 16 pairs are in the right order, ties half.
    assert area(curve) == pytest.approx(11.5 / 16)
    assert [true_positives(curve, at) for at in (0, 0.2, 0.25, 1)] == [0.25, 0.25, 0.75, 1]


def test_equal_scores_are_chance_and_no_threshold():
    curve = roc(np.ones(50), np.ones(70))
    assert area(curve) == 0.5
    # Whoever accuses one accuses all, so at 1 % nobody is accused.
    assert true_positives(curve, 0.01) == 0


def test_infinite_scores_are_scores():
    assert area(roc(np.array([np.inf, 1]), np.array([-np.inf, 0]))) == 1


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_nothing_and_nan_are_refused(members, others):
    with pytest.raises(ValueError, match="at least one member and one other"):
        roc(np.array(members), np.array(others))


def test_intervals_cover_the_truth_as_often_as_they_say():
    # Normal scores one standard deviation apart: the area is Phi(1 / sqrt(2)).
    covered = 0
    for seed in range(40):
        stream = np.random.default_rng(seed)
        auc = rates(stream.normal(1, 1, 150), stream.normal(0, 1, 150), 0.05).auc
        covered += auc.low <= 0.7602 <= auc.high
    # 95 % of 40 is 38; a binomial has fewer than 34 once in a hundred times.
    assert covered >= 34


def test_intervals_of_scores_that_tell_everything():
    found = rates(np.arange(5.0, 10), np.arange(5.0), 0.01)
    assert found == (Interval(1, 1, 1), Interval(1, 1, 1))
    assert rates(np.arange(9.0), np.arange(9.0), 0.01) == rates(
        np.arange(9.0), np.arange(9.0), 0.01
    )


def test_intervals_resample_members_and_others_apart():
    stream = np.random.default_rng(8)
    # Tied now and then.
    members, others = np.round(stream.normal(1, 1, 24), 1), np.round(stream.normal(0, 1, 36), 1)
    drawn = [
        np.random.default_rng(i).integers(size, size=(RESAMPLES, size))
        for i, size in enumerate((24, 36))
    ]
    curves = [roc(members[ours], others[theirs]) for ours, theirs in zip(*drawn, strict=True)]
    found = rates(members, others, 0.1)
    expected = np.percentile([area(curve) for curve in curves], (2.5, 97.5))
    # Float64 sums in another order.
    assert (found.auc.low, found.auc.high) == pytest.approx(tuple(expected), rel=1e-9)
    expected = np.percentile([true_positives(curve, 0.1) for curve in curves], (2.5, 97.5))
    assert (found.tpr.low, found.tpr.high) == pytest.approx(tuple(expected), rel=1e-9)
