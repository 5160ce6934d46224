"""Statistics and intervals, against sums worked by hand, SciPy's, and the bootstrap spelt out."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from privynet_jax.results import statistics
from privynet_jax.results.statistics import (
    Interval,
    bootstrap,
    mean_of,
    median_of,
    p95_of,
    share_of,
    student_mean,
    summarise,
    welch_difference,
)


def test_by_hand():
    # 0, 1, ..., 20 in any order: the 95th percentile lies at position 0.95 * 20 = 19.
    found = summarise(np.random.default_rng(4).permutation(21))
    assert dataclasses.astuple(found) == (10.0, 10.0, 19.0, pytest.approx(19.8), 20.0)
    # Between two values, percentiles are interpolated: 10 + 0.95 * (30 - 10).
    found = summarise(np.array([30.0, 10.0], np.float32))
    assert (found.mean, found.max) == (20.0, 30.0)
    assert found.p95 == pytest.approx(29.0)
    assert found.p99 == pytest.approx(29.8)
    assert dataclasses.astuple(summarise(np.array([7.0]))) == (7.0,) * 5


def test_the_worst_image_has_the_largest_value():
    # A loss of privacy in one image of a thousand must show, and only in the maximum.
    found = summarise(np.array([10.0] * 999 + [40.0]))
    assert (found.mean, found.p95, found.max) == (pytest.approx(10.03), 10.0, 40.0)


def test_values_are_summed_in_double_precision():
    # Summed one after another in float32, a million times 0.1 is off in the third digit.
    values = np.full(1_000_000, 0.1, np.float32)
    assert summarise(values).mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_statistics_are_plain_numbers():
    # NumPy's are refused by JSON, which is how results are kept.
    found = summarise(np.array([1, 2], np.float32))
    assert {type(value) for value in dataclasses.astuple(found)} == {float}


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [-np.inf, 1.0]])
def test_nothing_and_nan_are_no_statistics(values):
    with pytest.raises(ValueError, match="Expected finite values of at least one image"):
        summarise(np.array(values))


# Statistics of the resampled images themselves, for those that take counts.
PLAIN = {mean_of: np.mean, median_of: np.median, p95_of: lambda x: np.percentile(x, 95)}


@pytest.mark.parametrize("statistic", PLAIN)
@pytest.mark.parametrize("clustered", [False, True])
def test_the_bootstrap_is_the_one_that_puts_drawn_groups_together(statistic, clustered):
    stream = np.random.default_rng(3)
    # Some values are tied; groups have one to many images and any names.
    values = np.round(stream.gamma(2.0, 5.0, 60), 1)
    groups = stream.choice([2, 3, 5, 7, 11, 400], 60) if clustered else np.arange(60)
    names = np.unique(groups)
    drawn = np.random.default_rng(0).integers(len(names), size=(statistics.RESAMPLES, len(names)))
    found = [
        PLAIN[statistic](np.concatenate([values[groups == names[index]] for index in each]))
        for each in drawn
    ]
    interval = bootstrap(values, statistic, groups if clustered else None)
    expected = (PLAIN[statistic](values), *np.percentile(found, (2.5, 97.5)))
    # Sums in another order: float64's rounding.
    assert (interval.value, interval.low, interval.high) == pytest.approx(expected, rel=1e-12)


def test_bootstrap_intervals_are_scipy_s(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)
    values = np.random.default_rng(3).gamma(2.0, 5.0, 300)
    for ours, theirs in ((mean_of, np.mean), (p95_of, lambda x, axis: np.percentile(x, 95, axis))):
        expected = stats.bootstrap(
            (values,), theirs, n_resamples=4000, method="percentile", rng=1
        ).confidence_interval
        found = bootstrap(values, ours)
        # Two resamplings: bounds differ by some 5 % of the interval's width.
        width = expected.high - expected.low
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.1 * width)
    # The mean's interval is nearly the normal one.
    reach = 1.96 * values.std() / math.sqrt(300)
    found = bootstrap(values, mean_of)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - reach, values.mean() + reach), abs=0.2
    )


def test_equal_images_of_a_photograph_are_one_case():
    photographs = np.random.default_rng(5).normal(size=40)
    apart = bootstrap(photographs, mean_of)
    # Nine copies of each tell no more than one, whatever order they come in.
    order = np.random.default_rng(6).permutation(360)
    groups = np.repeat(np.arange(40), 9)[order]
    together = bootstrap(photographs[groups], mean_of, groups)
    assert dataclasses.astuple(together) == pytest.approx(dataclasses.astuple(apart), rel=1e-12)
    naive = bootstrap(photographs[groups], mean_of)
    # Three times as narrow, give or take the resampling's own few per cent.
    assert naive.margin == pytest.approx(apart.margin / 3, rel=0.15)


def test_the_bootstrap_is_the_same_in_pieces_and_every_time(monkeypatch):
    values = np.random.default_rng(5).normal(size=50)
    whole = bootstrap(values, mean_of)
    assert bootstrap(values, mean_of) == whole
    monkeypatch.setattr(statistics, "_AT_ONCE", 120)
    # Sums of float64 in another order.
    in_pieces = dataclasses.astuple(bootstrap(values, mean_of))
    assert in_pieces == pytest.approx(dataclasses.astuple(whole), rel=1e-12)


def test_the_bootstrap_of_equal_values_is_a_point():
    assert bootstrap(np.full(9, 4.0), p95_of) == Interval(4.0, 4.0, 4.0)
    with pytest.raises(ValueError, match="finite values of at least one image"):
        bootstrap(np.array([]), mean_of)


def test_one_group_has_no_interval():
    for groups in (None, np.zeros(1, int)):
        assert math.isnan(bootstrap(np.array([3.0]), mean_of, groups).margin)
    alone = bootstrap(np.array([3.0, 5.0]), mean_of, np.array([7, 7]))
    assert (alone.value, math.isnan(alone.low), math.isnan(alone.high)) == (4.0, True, True)


def test_shares_have_wilson_s_interval():
    # That nobody was hit does not say that nobody ever is.
    for hits, count in ((10, 40), (0, 40), (40, 40)):
        ends = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
        expected = pytest.approx((hits / count, ends.low, ends.high), abs=1e-12)
        assert dataclasses.astuple(share_of(np.arange(count) < hits)) == expected


def test_a_share_of_images_that_are_hit_together_is_one_of_their_groups():
    hits, five_each = np.arange(40) < 10, np.arange(200) // 5
    found, apart = share_of(np.repeat(hits, 5), five_each), share_of(hits)
    # Unbiased, the variance of 40 groups is that of 39 independent images.
    assert found.margin == pytest.approx(apart.margin, rel=0.02)
    for one in (np.zeros(40, bool), np.ones(40, bool)):
        assert share_of(np.repeat(one, 5), five_each) == share_of(one)
    # Nor do groups of which each has the same share, whatever its rounding: it is one number each.
    for hit in (13, 10, 20):
        one = share_of(np.arange(40) < hit, np.zeros(40, int))
        assert one.margin > 0.35
    thirds = share_of(np.tile([True, False, False], 100), np.repeat(np.arange(100), 3))
    assert thirds.margin == pytest.approx(share_of(np.tile([True, False], 50)).margin, rel=0.07)
    # Independent images tell as much in groups as without; of one group nobody knows more than one.
    alike = np.random.default_rng(0).random(6000) < 0.3
    assert share_of(alike, np.arange(6000) // 3).margin == pytest.approx(
        share_of(alike).margin, rel=0.1
    )
    assert share_of(hits, np.zeros(40, int)).margin == pytest.approx(share_of(hits[:1]).margin, 0.5)


@pytest.mark.parametrize("values", [[3.0, 5.0], [0.2, 0.9, 0.4, 0.45, 0.1], [7.0, 7.0, 7.5]])
def test_a_mean_s_interval_is_student_s(values):
    mean = student_mean(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))
    # Another way to the same: the test against a bound of the interval has a p of 5 %.
    assert stats.ttest_1samp(values, low).pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([3.0, 5.0], [1.0, 1.5]), ([0.2, 0.9, 0.4], [0.5, 0.6]), ([1.0, 2.0, 3.0], [9.0, 1.0, 4.0])],
)
def test_a_difference_s_interval_is_welch_s(ours, theirs):
    mean = welch_difference(ours, theirs)
    assert mean.value == pytest.approx(np.mean(ours) - np.mean(theirs))
    # Shifted by a bound of the interval, they differ with a p of just 5 %.
    shifted = np.asarray(ours) - (mean.value - mean.margin)
    result = stats.ttest_ind(shifted, theirs, equal_var=False)
    assert result.pvalue == pytest.approx(0.05)
    # And by the degrees of freedom of Welch and Satterthwaite.
    squares = [np.var(values, ddof=1) / len(values) for values in (ours, theirs)]
    freedom = sum(squares) ** 2 / sum(
        s**2 / (len(v) - 1) for s, v in zip(squares, (ours, theirs), strict=True)
    )
    margin = stats.t.isf(0.025, freedom) * math.sqrt(sum(squares))
    assert mean.margin == pytest.approx(margin)


def test_one_draw_has_no_interval():
    alone = student_mean([4.0])
    assert (alone.value, alone.plus_minus()) == (4.0, "4.0")
    assert math.isnan(alone.margin)
    difference = welch_difference([4.0], [1.0, 2.0])
    assert (difference.value, difference.plus_minus(2)) == (2.5, "2.50")
    assert math.isnan(difference.margin)
    assert Interval(1.234, 0.667, 1.801).plus_minus() == "1.2 ±0.6"


def test_a_bound_of_a_share_holds_with_95_percent_confidence():
    # Of 59 independent ones the largest, of 58 none: 0.95 ** 59 < 0.05 < 0.95 ** 58.
    stream = np.random.default_rng(0)
    assert statistics.quantile_bound(np.arange(59.0), 0.95) == 58
    assert statistics.quantile_bound(np.arange(58.0), 0.95) == math.inf
    covered = [statistics.quantile_bound(stream.random(200), 0.95) >= 0.95 for _ in range(2000)]
    assert 0.94 < np.mean(covered) < 0.99  # order statistics come in steps


def test_what_kept_trials_prove_is_clopper_and_pearson_s():
    assert statistics.proven_share(30, 30) == pytest.approx(0.05 ** (1 / 30))
    assert statistics.proven_share(0, 5) == 0
    # With that share, as many or more are kept one time in 20.
    share = statistics.proven_share(28, 30)
    assert stats.binom.sf(27, 30, share) == pytest.approx(0.05)


def test_a_conformal_bound_by_hand():
    values = np.arange(19.0)
    assert statistics.conformal_bound(values, 0.95) == 18
    assert statistics.conformal_bound(values[:18], 0.95) == math.inf
    assert statistics.conformal_bound(values, 0.5) == 9
