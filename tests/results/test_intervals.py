"""Intervals of means and differences, against SciPy's own."""

import math

import numpy as np
import pytest
from scipy import stats

from privynet_jax.results.intervals import Mean


@pytest.mark.parametrize("values", [[3.0, 5.0], [0.2, 0.9, 0.4, 0.45, 0.1], [7.0, 7.0, 7.5]])
def test_a_mean_s_interval_is_student_s(values):
    mean = Mean.of(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean.value - mean.margin == pytest.approx(low)
    assert mean.value + mean.margin == pytest.approx(high)
    # Another way to the same: the test against a bound of the interval has a p of 5 %.
    assert stats.ttest_1samp(values, low).pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([3.0, 5.0], [1.0, 1.5]), ([0.2, 0.9, 0.4], [0.5, 0.6]), ([1.0, 2.0, 3.0], [9.0, 1.0, 4.0])],
)
def test_a_difference_s_interval_is_welch_s(ours, theirs):
    mean = Mean.of_difference(ours, theirs)
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
    alone = Mean.of([4.0])
    assert (alone.value, alone.text()) == (4.0, "4.0")
    assert math.isnan(alone.margin)
    difference = Mean.of_difference([4.0], [1.0, 2.0])
    assert (difference.value, difference.text(2)) == (2.5, "2.50")
    assert math.isnan(difference.margin)
    assert Mean(1.234, 0.567).text() == "1.2 ±0.6"
