"""Statistics over images, against sums worked by hand."""

import numpy as np
import pytest

from privynet_jax.risk import summarise


def test_by_hand():
    # 0, 1, ..., 20 in any order: the 95th percentile lies at position 0.95 * 20 = 19.
    found = summarise(np.random.default_rng(4).permutation(21))
    assert (found.mean, found.p95, found.max) == (10.0, 19.0, 20.0)
    # Between two values, percentiles are interpolated: 10 + 0.95 * (30 - 10).
    found = summarise(np.array([30.0, 10.0], np.float32))
    assert (found.mean, found.max) == (20.0, 30.0)
    assert found.p95 == pytest.approx(29.0)
    assert summarise(np.array([7.0])).p95 == 7.0


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
    assert {type(value) for value in (found.mean, found.p95, found.max)} == {float}


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [-np.inf, 1.0]])
def test_nothing_and_nan_are_no_statistics(values):
    with pytest.raises(ValueError, match="Expected finite values of at least one image"):
        summarise(np.array(values))
