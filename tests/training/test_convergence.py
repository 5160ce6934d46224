"""How much a held-out error falls per doubling of training, by hand."""

import dataclasses
import math

import numpy as np
import pytest

from privynet_jax.training.convergence import (
    Validation,
    falling_percent_per_doubling,
    without_progress,
)
from privynet_jax.training.members import Trained


def falling(*moments):
    history = [Validation(step, {"e": error}, ends, 0.0) for step, error, ends in moments]
    return falling_percent_per_doubling(history, lambda means: means["e"])


def test_the_fall_is_between_the_last_two_cycles_per_doubling():
    # Twice the steps; four times, which is two doublings; and what lies between does not count.
    assert falling((100, 1.0, True), (200, 0.9, True)) == pytest.approx(10)
    assert falling((50, 1.0, True), (200, 0.81, True)) == pytest.approx(10)
    moments = [(0, 9.0, False), (9, 5.0, True), (50, 1.0, True), (60, 3.0, False)]
    assert falling(*moments, (100, 0.5, True)) == pytest.approx(50)
    assert falling((100, 1.0, True), (200, 1.2, True)) == pytest.approx(-20)
    assert math.isnan(falling((100, 1.0, True), (200, math.nan, True)))


def test_after_one_cycle_nothing_is_known():
    assert falling() == falling((0, 1.0, False), (10, 0.1, True)) == 100


@pytest.mark.parametrize(
    ("percent", "epochs", "converged"),
    [(5.0, 1.0, True), (-3.0, 1.0, True), (5.1, 9.0, False), (0.0, 0.9, False)],
)
def test_converged_is_at_most_five_percent_once_every_example_was_seen(percent, epochs, converged):
    trained = Trained((), (), 1, epochs, np.zeros(1, np.float32), (), percent)
    assert trained.converged == converged
    assert not dataclasses.replace(trained, falling_percent=math.nan).converged


def test_progress_is_a_record_of_any_number():
    assert without_progress([]) == 0
    assert without_progress([(1.0, 5.0), (1.0, 4.0)]) == 1
    assert without_progress([(1.0, 5.0), (1.0, 4.0), (0.0, 6.0)]) == 0
    assert without_progress([(1.0, 5.0), (0.9, 4.9), (-math.inf, -math.inf), (1.0, 5.0)]) == 3
