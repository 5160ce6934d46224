"""Batches of prediction: every row once, in order, whatever their size."""

import numpy as np
import pytest
from support.small_training import WIDTH, examples, member, regression, seen_by

from privynet_jax.platform import signals
from privynet_jax.platform.rows.row_views import ChosenRows
from privynet_jax.training import prediction
from privynet_jax.training.prediction import measured, predicted
from privynet_jax.training.session import session

PARAMS = {"params": {"w": np.float32(np.random.default_rng(0).normal(size=(WIDTH, 2)))}}
EXPECTED = np.float64(seen_by(1)).mean(axis=(1, 2)) @ PARAMS["params"]["w"]
# Sums of 4 pixels and of 4 products of about 1, in float32.
CLOSE = 1e-6


# Of 24 rows: one too large batch, all at once, and 4 whole ones with a piece of one.
@pytest.mark.parametrize("size", [128, 24, 5])
def test_outputs_are_of_the_rows_that_are_asked_for(monkeypatch, size):
    monkeypatch.setattr(prediction, "_AT_ONCE", size)
    inputs, (_, targets) = member(1).inputs, examples()
    found = predicted(regression(), PARAMS, (), inputs)
    np.testing.assert_allclose(found, EXPECTED, atol=CLOSE)
    rows = np.array([20, 3, 3, 0, 1, 2, 23])
    some = predicted(regression(), PARAMS, (), inputs, rows)
    np.testing.assert_allclose(some, EXPECTED[rows], atol=CLOSE)
    errors = measured(regression(), PARAMS, (), inputs, targets, rows)["error"]
    expected = np.square(EXPECTED[rows] - targets[rows]).mean(axis=1)
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_large_representations_come_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(prediction, "_BYTES_AT_ONCE", 4 * 4 * 4 * WIDTH)  # four rows
    asked = []

    class Watched(ChosenRows):
        def _read(self, numbers):
            asked.append(len(numbers))
            return super()._read(numbers)

    predicted(regression(), PARAMS, (), Watched(seen_by(1), np.arange(24)))
    assert asked == [4] * 6


def test_predictions_can_be_stopped_and_need_rows():
    with session(stop_requested=lambda: True), pytest.raises(signals.Terminated):
        predicted(regression(), PARAMS, (), seen_by(0))
    with pytest.raises(ValueError, match="at least one row"):
        predicted(regression(), PARAMS, (), seen_by(0)[:0])
