"""Sums over an attacker's rows, taken once for all who ask for the same."""

import numpy as np

from privynet_jax.estimates import subsets
from privynet_jax.estimates.subsets import linear_statistics
from privynet_jax.images.parts import as_float
from privynet_jax.training.models.linear_attack import gather_statistics

RNG = np.random.default_rng(0)
STORED = np.float16(RNG.exponential(size=(70, 4, 4, 5)))
IMAGES = RNG.integers(0, 256, (70, 8, 8, 3), np.uint8)
ROWS, OTHERS = np.arange(0, 70, 2), np.arange(1, 70, 2)


def assert_sums(found, rows, channels=slice(None)):
    expected = gather_statistics(
        [(np.float32(STORED[rows][..., channels]), as_float(IMAGES[rows]))]
    )
    assert found.count == expected.count == 16 * len(rows)
    # Some 500 products of exponentials, up to 100, in float32.
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(found.cross, expected.cross, rtol=1e-5, atol=1e-2)


def test_sums_are_over_the_rows_and_channels_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(subsets, "_BATCH_POSITIONS", 16 * 12)  # 35 rows in three pieces
    fitted_on, chosen_on = linear_statistics(STORED, IMAGES, ROWS, OTHERS)
    assert_sums(fitted_on, ROWS)
    assert_sums(chosen_on, OTHERS)
    channels = np.array([1, 4])
    fitted_on, chosen_on = linear_statistics(STORED, IMAGES, OTHERS, ROWS, channels=channels)
    assert_sums(fitted_on, OTHERS, channels)
    # As many whole images as have so many positions.
    few, _ = linear_statistics(STORED, IMAGES, ROWS, OTHERS, positions=100)
    assert_sums(few, ROWS[:7])


def test_the_latest_sums_are_kept(monkeypatch):
    first = linear_statistics(STORED, IMAGES, ROWS, OTHERS)
    assert linear_statistics(STORED, IMAGES, ROWS.copy(), OTHERS) is first
    assert linear_statistics(STORED.copy(), IMAGES, ROWS, OTHERS) is not first
    assert len(subsets._latest) <= subsets._KEPT
