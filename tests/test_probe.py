"""The closed-form probe against scikit-learn's ridge regression."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from privynet_jax.features import LayerFeatures
from privynet_jax.probe import RIDGES, fit_probe, pool_layer, probe_correct, probe_sums

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
def pooled(data):
    parts = {name: x for name, (x, _) in data.items()}
    return pool_layer(
        LayerFeatures(4, tuple(range(CHANNELS)), parts | {"validation": parts["test"]})
    )


def test_six_numbers_per_channel(data, pooled):
    x = np.log1p(np.float64(data["target"][0]))
    quarters = [x[:, i, j] for i in (slice(0, 3), slice(2, 5)) for j in (slice(0, 3), slice(2, 5))]
    numbers = [x.mean(axis=(1, 2)), x.std(axis=(1, 2)), *(q.mean(axis=(1, 2)) for q in quarters)]
    raw = np.concatenate(numbers, axis=1)
    expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(pooled["target"], expected, atol=1e-3)
    assert {name: values.shape for name, values in pooled.items()} == {
        "target": (200, 30),
        "validation": (90, 30),
        "test": (90, 30),
    }


@pytest.mark.parametrize("positions", [(3,), (0, 3), (4, 2, 1)])
def test_a_subset_is_solved_as_scikit_learn_solves_it_alone(data, pooled, positions):
    labels = data["target"][1]
    probe = fit_probe(*probe_sums(pooled["target"], labels, CLASSES), positions)
    columns = [number * CHANNELS + position for number in range(6) for position in positions]
    x, y = pooled["target"][:, columns], np.eye(CLASSES)[labels]

    def models(rows):
        # `best_ridge` scales by the mean square of a regressor, the constant among them.
        scale = (np.square(x[rows]).sum() + len(x[rows])) / (len(columns) + 1)
        return [Ridge(alpha=ridge * scale).fit(x[rows], y[rows]) for ridge in RIDGES]

    errors = [np.square(m.predict(x[160:]) - y[160:]).sum() for m in models(slice(160))]
    best = models(slice(None))[np.argmin(errors)]
    # Sums are float32, of 200 numbers of about 1.
    np.testing.assert_allclose(probe.weights, best.coef_.T, atol=1e-3)
    np.testing.assert_allclose(probe.bias, best.intercept_, atol=1e-3)
    test_labels = data["test"][1]
    expected = best.predict(pooled["test"][:, columns]).argmax(axis=1) == test_labels
    found = probe_correct(probe, pooled["test"], test_labels)
    assert found.dtype == np.float32
    assert np.mean(found == expected) > 0.97  # rounding may turn a close call


def test_channels_that_tell_something_are_worth_more(data, pooled):
    sums = probe_sums(pooled["target"], data["target"][1], CLASSES)

    def accuracy(*positions):
        return probe_correct(fit_probe(*sums, positions), pooled["test"], data["test"][1]).mean()

    assert accuracy(0, 3) > accuracy(1, 2, 4) + 0.2


def test_a_silent_channel_counts_for_nothing(data):
    parts = {name: x.copy() for name, (x, _) in data.items()}
    parts["target"][..., 1] = 0  # it responds on test images alone
    pooled = pool_layer(
        LayerFeatures(4, tuple(range(CHANNELS)), parts | {"validation": parts["test"]})
    )
    assert np.abs(pooled["test"][:, 1::CHANNELS]).max() == 0
