"""What ten times the training would add, from the ends of cycles."""

import math

import pytest

from privynet_jax.training.convergence import Validation
from privynet_jax.training.extrapolation import expected_gain


def gain(*ends, others=()):
    """Of held-out PSNR in dB after so many steps, at the ends of cycles and at other moments."""
    moments = [(*end, True) for end in ends] + [(*other, False) for other in others]
    history = [Validation(step, {"db": db}, is_end, 0.0) for step, db, is_end in sorted(moments)]
    return expected_gain(history, lambda means: 10 ** (-means["db"] / 10))


def test_it_is_of_what_the_last_doubling_brought():
    one = gain((100, 21.0), (200, 22.0))
    assert one.low < one.value < one.high
    assert gain((50, 20.0), (200, 22.0)) == pytest.approx(one)
    assert gain((25, 3.0), (100, 21.0), (200, 22.0), others=[(0, 9.0), (150, 30.0)]) == one
    # Who still learns fast gains more; so does who rebuilds well, as less of it is out of reach.
    assert gain((100, 20.0), (200, 22.0)).value > one.value
    assert gain((100, 31.0), (200, 32.0)).value > one.value


def test_a_training_that_is_over_gains_next_to_nothing():
    for last in (20.0, 19.0):
        assert 0 < gain((100, 20.0), (300, last)).value < 0.3


@pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf])
def test_nothing_is_told_of_what_cannot_be_compared(last):
    assert gain((100, 20.0), (300, last)) is None
    assert gain((100, 20.0)) is gain() is None
