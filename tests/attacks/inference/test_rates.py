"""How well scores tell members from others: ROC curves against scikit-learn, intervals by hand."""

import numpy as np
import pytest
from sklearn import metrics

from privynet_jax.attacks.inference.membership import FALSE_POSITIVES
from privynet_jax.attacks.inference.rates import area, rates, roc, true_positives
from privynet_jax.results.statistics import RESAMPLES, Interval


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


def test_intervals_of_clusters_draw_whole_clusters():
    stream = np.random.default_rng(3)
    members, others = (np.repeat(stream.normal(size=12), 20) for _ in range(2))
    clusters = (np.repeat(np.arange(12), 20), np.repeat(np.arange(12), 20))
    apart, whole = (rates(members, others, 0.1, groups).auc for groups in (None, clusters))
    # As 12 images say, not as 240: wider by sqrt(20).
    assert whole.margin / apart.margin == pytest.approx(20**0.5, rel=0.25)
    assert whole.value == apart.value


def test_scores_that_mean_nothing_catch_as_many_as_they_accuse_wrongly():
    stream = np.random.default_rng(8)
    found = rates(stream.normal(size=4000), stream.normal(size=4000), FALSE_POSITIVES)
    # Standard errors are sqrt(8001 / 12) / 4000 = 0.0065, and sqrt(2 * 0.01 / 4000) = 0.0022.
    assert found.auc.value == pytest.approx(0.5, abs=4 * 0.0065)
    assert found.tpr.value == pytest.approx(0.01, abs=4 * 0.0022)
    assert found.auc.low < found.auc.value < found.auc.high
