"""Statistics over images, against sums worked by hand and SciPy's bootstrap."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from privynet_jax.results.statistics import bootstrap, mean_of, p95_of, summarise


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


def test_bootstrap_intervals_are_scipy_s():
    values = np.random.default_rng(3).gamma(2.0, 5.0, 300)
    found = bootstrap(values, {"mean": mean_of, "p95": p95_of}, resamples=4000)
    for name, statistic in (("mean", np.mean), ("p95", lambda x, axis: np.percentile(x, 95, axis))):
        expected = stats.bootstrap(
            (values,), statistic, n_resamples=4000, method="percentile", rng=1
        ).confidence_interval
        # Two resamplings: bounds differ by some 5 % of the interval's width.
        width = expected.high - expected.low
        assert found[name] == pytest.approx(tuple(expected), abs=0.1 * width)
    # The mean's interval is nearly the normal one.
    reach = 1.96 * values.std() / math.sqrt(300)
    assert found["mean"] == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.2)


def test_the_bootstrap_is_the_same_in_pieces_and_every_time(monkeypatch):
    values = np.random.default_rng(5).normal(size=50)
    whole = bootstrap(values, {"mean": mean_of}, resamples=37)
    assert bootstrap(values, {"mean": mean_of}, resamples=37) == whole
    monkeypatch.setattr("privynet_jax.results.statistics._AT_ONCE", 120)
    assert bootstrap(values, {"mean": mean_of}, resamples=37) == whole
    assert bootstrap(values, {"mean": mean_of}, resamples=37, seed=1) != whole


def test_the_bootstrap_of_equal_values_is_a_point():
    assert bootstrap(np.full(9, 4.0), {"p95": p95_of}) == {"p95": (4.0, 4.0)}
    with pytest.raises(ValueError, match="finite values of at least one image"):
        bootstrap(np.array([]), {"mean": mean_of})
