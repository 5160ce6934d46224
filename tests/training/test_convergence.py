"""Stretches of a training, and how much the loss still fell."""

import jax.numpy as jnp
import numpy as np
import pytest
from privynet_jax.training.losses import LOGARITHMIC

from privynet_jax.training.convergence import Curve, falling_percent


def curve_of(losses):
    curve = Curve.empty()
    for loss in losses:
        curve = curve.extended(jnp.float32(loss), len(losses))
    return np.asarray(curve.sums)


def test_ten_stretches_hold_all_losses():
    losses = np.arange(25.0)
    sums = curve_of(losses)
    assert sums.sum() == losses.sum()
    # 25 steps in ten stretches: 3 and 2 in turn.
    np.testing.assert_array_equal(sums[:3], [0 + 1 + 2, 3 + 4, 5 + 6 + 7])


def test_the_last_fifth_against_the_one_before():
    # Steps 15 to 19, then 20 to 24: means of 4 and 3.
    losses = [9.0] * 15 + [4.0] * 5 + [3.0] * 5
    assert falling_percent(curve_of(losses), 25) == pytest.approx(25)


@pytest.mark.parametrize(("last", "expected"), [(40.0, 0), (20.0, 50), (80.0, -100)])
def test_how_much_a_loss_still_falls(last, expected):
    sums = np.array([90.0] * 6 + [40.0] * 2 + [last] * 2)
    assert falling_percent(sums, 100) == pytest.approx(expected)


def test_losses_below_zero_are_compared_by_their_errors():
    # Squared errors of 0.02 and 0.01, ten steps each: the logarithmic loss is below zero at both.
    losses = 0.02 * np.log([0.02] * 40 + [0.01] * 10)
    sums = losses.reshape(10, 5).sum(axis=1)
    assert falling_percent(sums, 50, LOGARITHMIC.error) == pytest.approx(50)


def test_too_few_steps_count_as_unfinished():
    assert falling_percent(np.full(10, 30.0), 9) == 100
    assert falling_percent(np.zeros(10), 100) == 0
