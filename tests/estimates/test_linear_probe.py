"""The closed-form probe against scikit-learn's ridge regression."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from support.handmade_layers import handmade_features

from privynet_jax.estimates.linear_probe import (
    RIDGES,
    fit_probe,
    gather_probe_sums,
    pool_rows,
    probe_scores,
)

CLASSES, CHANNELS = 4, 5


def labelled(seed, count):
    """Labels, and float16 [count, 5, 5, 5] of which channels 0 and 3 tell something about them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    x = rng.exponential(size=(count, 5, 5, CHANNELS))
    x[..., 0] += 0.5 * labels[:, None, None]
    x[:, :3, :, 3] += labels[:, None, None] == 2  # in the upper quarters only
    return np.float16(x), labels


@pytest.fixture(scope="module")
def data():
    return {name: labelled(i, n) for i, (name, n) in enumerate([("target", 200), ("test", 90)])}


@pytest.fixture(scope="module")
def layer(data):
    return handmade_features(4, range(CHANNELS), {name: x for name, (x, _) in data.items()})


@pytest.fixture(scope="module")
def sums(layer, data):
    return gather_probe_sums(layer.parts["target"], data["target"][1], CLASSES)


def six_numbers(x):
    """float64 [N, 6, C], by hand."""
    x = np.log1p(np.float64(x))
    quarters = [x[:, i, j] for i in (slice(0, 3), slice(2, 5)) for j in (slice(0, 3), slice(2, 5))]
    whole = [x.mean(axis=(1, 2)), x.std(axis=(1, 2))]
    return np.stack([*whole, *(quarter.mean(axis=(1, 2)) for quarter in quarters)], axis=1)


def scores_of(sums, layer, positions, width=None):
    probe = fit_probe(sums, positions, width or len(positions))
    numbers = pool_rows(layer.parts["test"])[..., list(positions)]
    padding = (width or len(positions)) - len(positions)
    # Whatever stands where a subset is padded must not count.
    return np.asarray(
        probe_scores(probe, np.pad(numbers, ((0, 0), (0, 0), (0, padding)), constant_values=7))
    )


def test_six_numbers_per_channel(data, layer):
    np.testing.assert_allclose(
        pool_rows(layer.parts["target"]), six_numbers(data["target"][0]), atol=1e-3
    )


@pytest.mark.parametrize("positions", [(3,), (0, 3), (4, 2, 1)])
def test_a_subset_is_solved_as_scikit_learn_solves_it_alone(data, layer, sums, positions):
    labels = data["target"][1]
    raw = six_numbers(data["target"][0])
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)

    def features(x):
        return ((six_numbers(x) - mean) / deviation)[..., list(positions)].reshape(len(x), -1)

    x, y = features(data["target"][0]), np.eye(CLASSES)[labels]

    def models(rows):
        # `best_ridge` scales by the mean square of a regressor, the constant among them.
        scale = (np.square(x[rows]).sum() + len(x[rows])) / (x.shape[1] + 1)
        return [Ridge(alpha=ridge * scale).fit(x[rows], y[rows]) for ridge in RIDGES]

    errors = [np.square(m.predict(x[160:]) - y[160:]).sum() for m in models(slice(160))]
    best = models(slice(None))[np.argmin(errors)]
    expected = best.predict(features(data["test"][0]))
    # Sums and pooled numbers are float32; scores are about probabilities.
    np.testing.assert_allclose(scores_of(sums, layer, positions), expected, atol=1e-3)


def test_padding_changes_nothing(layer, sums):
    found = scores_of(sums, layer, (4, 0), width=5)
    np.testing.assert_allclose(found, scores_of(sums, layer, (4, 0)), atol=1e-5)


def test_channels_that_tell_something_are_worth_more(data, layer, sums):
    def accuracy(*positions):
        return np.mean(scores_of(sums, layer, positions).argmax(axis=1) == data["test"][1])

    assert accuracy(0, 3) > accuracy(1, 2, 4) + 0.2


def test_negative_values_count_as_positive_ones_do(data):
    """Noise makes some, of which log1p would be no number below -1."""
    x = np.float32(data["test"][0])
    before, after = pool_rows(x), pool_rows(-x)
    np.testing.assert_array_equal(np.delete(after, 1, axis=1), -np.delete(before, 1, axis=1))
    np.testing.assert_array_equal(after[:, 1], before[:, 1])


def test_a_silent_channel_counts_for_nothing(data):
    x, labels = data["target"]
    silent = x.copy()
    silent[..., 1] = 0  # it responds on test images alone
    layer = handmade_features(4, range(CHANNELS), {"target": silent})
    probe = fit_probe(gather_probe_sums(layer.parts["target"], labels, CLASSES), (1, 3), width=2)
    np.testing.assert_array_equal(probe.weights[:, 0], 0)
    assert np.isfinite(probe.weights).all()
