"""What ten times the training would add, from the ends of cycles."""

import math

import pytest

from privynet_jax.training.convergence import Validation
from privynet_jax.training.extrapolation import LEAST_STEPS, Gain, expected_gain, gain_from


def gain(start, *ends, others=()):
    """Of held-out PSNR in dB at first, and after so many steps: ends of cycles, other moments."""
    moments = [(*end, True) for end in ends] + [(*other, False) for other in others]
    history = [Validation(step, {"db": db}, is_end, 0.0) for step, db, is_end in sorted(moments)]
    first = Validation(0, {"db": start}, False, math.nan)
    return expected_gain([first, *history], lambda means: 10 ** (-means["db"] / 10))


def test_who_gained_much_in_little_time_gains_much_more():
    one = gain(14.0, (100, 17.0), (300, 20.0))
    assert one.low < one.value < one.high
    assert gain(14.0, (100, 20.0)).value > one.value > gain(14.0, (1000, 20.0)).value > 0
    assert gain(14.0, (300, 22.0)).value > one.value
    # Only what the last cycle ended with counts, and by how much it is more than at first.
    assert gain(24.0, (30, 25.0), (300, 30.0), others=[(200, 31.0)]) == pytest.approx(one)


def test_a_training_that_brought_nothing_gains_next_to_nothing():
    for last in (20.0, 19.0):
        assert 0 < gain(20.0, (300, last)).value <= 0.1


@pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf])
def test_nothing_is_told_of_what_cannot_be_compared(last):
    assert gain(14.0, (300, last)) is None
    assert gain(14.0, (LEAST_STEPS - 1, 20.0)) is None
    assert gain(14.0, others=[(300, 20.0)]) is None


def test_what_starts_from_a_network_gains_at_most_as_much_and_its_own_doublings():
    start = Gain(2.0, 1.0, 4.0)
    # Ten times are log2(10) = 3.32 doublings.
    found = gain_from(start, 0.5)
    assert found == pytest.approx((2 + 1.661, 0, 4 + 1.661), abs=1e-3)
    # More steps may do harm; fewer are then still to be had.
    assert gain_from(start, -0.3) == (2, 0, 4)
    assert gain_from(Gain(0, 0, 0), 1.0) == pytest.approx((3.322, 0, 3.322), abs=1e-3)
