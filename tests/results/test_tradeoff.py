"""A trade-off's frontier, worked by hand."""

import pytest

from privynet_jax.results.tradeoff import Point, best_accuracy, frontier

# The third loses more than the second and is less accurate; the fourth repeats the first's loss.
POINTS = [Point(14, 0.3), Point(18, 0.6), Point(19, 0.5), Point(14, 0.2), Point(22, 0.7)]


def test_the_frontier_leaves_out_what_another_point_beats():
    assert frontier(POINTS) == [(14, 0.3), (18, 0.6), (22, 0.7)]
    assert frontier([]) == []


@pytest.mark.parametrize(
    ("psnr_db", "expected"), [(14, 0.3), (16, 0.45), (18, 0.6), (19, 0.625), (22, 0.7), (40, 0.7)]
)
def test_accuracy_at_a_privacy_loss(psnr_db, expected):
    assert best_accuracy(POINTS, psnr_db) == pytest.approx(expected)


def test_nothing_is_promised_below_the_least_loss():
    assert best_accuracy(POINTS, 13.9) is None
    assert best_accuracy([], 20) is None
