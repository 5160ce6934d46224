"""A peer trains for longer and longer until it does as well, and steps between are interpolated."""

import math

import pytest

from experiments.benchmarking.equal_psnr import Point, lengths_until, steps_to


def test_lengths_double_until_enough_is_reached():
    points = list(lengths_until(26.5, 100, 10_000, lambda steps: 10 * math.log10(steps)))
    assert points == [Point(100, 20.0), *points[1:]]
    assert [point.steps for point in points] == [100, 200, 400, 800]
    # 26.5 dB = 10 log10(steps): interpolation in the logarithm is exact here.
    assert steps_to(points, 26.5) == pytest.approx(10**2.65)


def test_what_is_not_reached_within_the_limit_is_none():
    points = list(lengths_until(50.0, 100, 300, lambda steps: 20.0))
    assert [point.steps for point in points] == [100, 200, 300]
    assert steps_to(points, 50.0) is None


def test_the_first_length_may_be_enough():
    assert steps_to([Point(100, 20.0)], 19.0) == 100
