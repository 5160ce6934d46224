"""Masks: exactly the asked share of zeros, those of the least scores, and their gradients."""

import jax
import numpy as np
import pytest

from privynet_jax.mechanisms.adapting.masks import kept_of


@pytest.mark.parametrize(("dropped", "count"), [(0, 0), (0.25, 2), (0.5, 4), (0.7, 6), (1, 8)])
def test_the_least_scores_are_dropped(dropped, count):
    scores = np.float32(np.random.default_rng(0).standard_normal((5, 8)))
    kept = np.asarray(kept_of(scores, dropped))
    assert set(np.unique(kept)) <= {0, 1}
    for row, mask in zip(scores, kept, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(mask == 0), np.sort(np.argsort(row)[:count]))


def test_equal_scores_are_dropped_by_place():
    np.testing.assert_array_equal(kept_of(np.ones(4, np.float32), 0.5), [0, 0, 1, 1])


def test_gradients_are_a_sigmoid_s_about_the_border():
    scores = np.array([0.0, 1.0, 3.0, 4.0], np.float32)
    slopes = jax.grad(lambda scores: kept_of(scores, 0.5) @ np.float32([1, 2, 3, 4]))(scores)
    chances = 1 / (1 + np.exp(-(scores - 2)))
    np.testing.assert_allclose(slopes, [1, 2, 3, 4] * chances * (1 - chances), rtol=1e-5)
