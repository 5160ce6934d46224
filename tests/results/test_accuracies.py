"""Shares of right answers, by hand and against scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from privynet_jax.results.accuracies import accuracies, balanced_mean_of, of_images


def test_classes_of_any_size_count_alike_in_balanced_accuracy():
    # Nine images of class 4 and one of class 7: who always answers 4 knows nothing.
    labels = np.array([4] * 9 + [7])
    found = accuracies(labels == 4, labels)
    assert found == {"accuracy": 0.9, "balanced_accuracy": 0.5, "commonest_class_share": 0.9}
    stream = np.random.default_rng(0)
    labels, answers = stream.integers(0, 5, 60), stream.integers(0, 5, 60)
    expected = balanced_accuracy_score(labels, answers)
    assert accuracies(labels == answers, labels)["balanced_accuracy"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least one image"):
        accuracies(np.zeros(0), np.zeros(0, int))


def test_balanced_means_of_resamples_are_scikit_learn_s():
    stream = np.random.default_rng(5)
    labels, right = stream.integers(4, size=60), stream.integers(2, size=60)
    counts = np.stack([np.bincount(stream.integers(60, size=60), minlength=60) for _ in range(9)])
    found = balanced_mean_of(np.float64(right), counts, labels=labels)
    # An answer that is no class stands for any wrong one.
    drawn = [np.repeat(np.arange(60), count) for count in counts]
    told = np.where(right, labels, 9)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = [balanced_accuracy_score(labels[rows], told[rows]) for rows in drawn]
    np.testing.assert_allclose(found, expected)
    # Only classes that were drawn count: of these three pictures' classes, the last was not.
    by_hand = balanced_mean_of(
        np.array([1.0, 0, 1, 0]), np.array([[1, 1, 2, 0]]), labels=np.array([0, 1, 1, 2])
    )
    assert by_hand == pytest.approx((1 + 2 / 3) / 2)


def test_several_labels_count_alike():
    # The first label: three of four right, both with and half without. The second: two of four.
    right = np.array([[1, 0], [1, 0], [0, 1], [1, 1]])
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, 0]])
    found = accuracies(right, labels)
    assert found["accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    # Nobody has the second label, so that nothing tells whether it would be found.
    assert found["balanced_accuracy"] == pytest.approx(3 / 4)
    assert math.isnan(accuracies(right[:, 1:], labels[:, 1:])["balanced_accuracy"])
    assert found["commonest_class_share"] == pytest.approx((1 / 2 + 1) / 2)
    np.testing.assert_array_equal(of_images(right), [0.5, 0.5, 0.5, 1])
    np.testing.assert_array_equal(of_images(right[:, 0]), right[:, 0])
