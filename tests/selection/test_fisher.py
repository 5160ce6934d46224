"""Fisher's score against hand-worked cases and scikit-learn's linear discriminant analysis."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import f_classif

from privynet_jax.errors import UserError
from privynet_jax.selection.fisher import fisher_scores


def sample(side=3, channels=4, classes=5, seed=0):
    """Representations whose classes differ in their means, in classes of unequal sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), 8 + 4 * np.arange(classes)))
    means = rng.standard_normal((classes, side, side, channels))
    mix = rng.standard_normal((side * side, side * side))
    noise = rng.standard_normal((len(labels), channels, side * side)) @ mix
    noise = np.moveaxis(noise.reshape(len(labels), channels, side, side), 1, -1)
    return means[labels] + noise, labels


def vectors(representations, channel):
    return representations[..., channel].reshape(len(representations), -1)


def between_classes(x, labels):
    """S_B as the definition says, image by image."""
    centred = x - x.mean(axis=0)
    total = np.zeros((x.shape[1], x.shape[1]))
    for label in labels:
        mean = centred[labels == label].mean(axis=0)
        total += np.outer(mean, mean) / len(labels)
    return total


def test_a_case_worked_by_hand():
    # Class means 1 and 5 about 3: between 4. Deviations of 1 in the one, 2 in the other: within
    # (1 + 1 + 4 + 4) / 4 = 2.5.
    values = np.array([0.0, 2.0, 3.0, 7.0]).reshape(4, 1, 1, 1)
    [score] = fisher_scores(values, np.array([3, 3, 8, 8]))
    assert score == pytest.approx(4 / 2.5)
    # Six images of the one class at 1, +-1: means 1 and 5 about 2, between (6 * 1 + 2 * 9) / 8 = 3;
    # within (6 * 1 + 2 * 4) / 8 = 1.75.
    values = np.array([0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 3.0, 7.0]).reshape(8, 1, 1, 1)
    [score] = fisher_scores(values, np.array([0] * 6 + [1] * 2))
    assert score == pytest.approx(3 / 1.75)


def test_two_positions_worked_by_hand():
    # Position 0 says nothing of the class, position 1 is -1 or 1 with 0.5 around it, and the two
    # vary independently: S_W = diag(1, 0.25), S_B = diag(0, 1).
    x = np.array([[-1, -1.5], [-1, -0.5], [1, -1.5], [1, -0.5]])
    x = np.concatenate([x, x + np.array([0, 2])])
    labels = np.repeat([0, 1], 4)
    found = [fisher_scores(x.reshape(8, 1, 2, 1), labels, s)[0] for s in (0, 0.5, 1)]
    # Half way to 0.625 times the identity, and there.
    np.testing.assert_allclose(found, [1 / 0.25, 1 / 0.4375, 1 / 0.625], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 7])
def test_one_number_per_image_is_what_scikit_learn_says(classes):
    representations, labels = sample(side=1, classes=classes, seed=classes)
    found = fisher_scores(representations, labels)
    flat = representations[:, 0, 0]
    # The F statistic is the same ratio, by degrees of freedom instead of images.
    ratio, _ = f_classif(flat, labels)
    expected = ratio * (classes - 1) / (len(labels) - classes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for channel, score in enumerate(found):
        # scalings_ have unit variance within classes, so the variance between is the eigenvalue.
        [projected] = projections(flat[:, [channel]], labels)
        assert score == pytest.approx(projected, rel=1e-6)


def projections(x, labels):
    """The eigenvalues of scikit-learn's linear discriminant analysis, without shrinkage."""
    analysis = LinearDiscriminantAnalysis(solver="eigen").fit(x, labels)
    between = between_classes(x, labels)
    return np.diag(analysis.scalings_.T @ between @ analysis.scalings_)


@pytest.mark.parametrize("classes", [2, 6])
def test_many_positions_without_shrinkage_are_the_sum_of_eigenvalues(classes):
    representations, labels = sample(classes=classes)
    found = fisher_scores(representations, labels, shrinkage=0.0)
    for channel, score in enumerate(found):
        x = vectors(representations, channel)
        values = projections(x, labels)
        assert score == pytest.approx(values.sum(), rel=1e-6)
        shares = LinearDiscriminantAnalysis(solver="eigen").fit(x, labels).explained_variance_ratio_
        np.testing.assert_allclose(values[: classes - 1] / score, shares, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.1, 0.7])
def test_shrinkage_is_scikit_learns(shrinkage):
    representations, labels = sample()
    found = fisher_scores(representations, labels, shrinkage)
    for channel, score in enumerate(found):
        x = vectors(representations, channel)
        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, labels)
        values = scipy.linalg.eigh(
            between_classes(x, labels), analysis.covariance_, eigvals_only=True
        )
        assert score == pytest.approx(values.sum(), rel=1e-6)


def test_the_informative_channel_is_first():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 6)
    representations = rng.exponential(size=(60, 4, 4, 20))
    representations[..., 13] += rng.standard_normal((10, 4, 4))[labels]
    assert np.argmax(fisher_scores(representations, labels)) == 13


def test_units_and_the_order_of_images_do_not_matter():
    representations, labels = sample()
    expected = fisher_scores(representations, labels)
    scaled = representations * np.array([1e-6, 1.0, 300.0, 1e8])
    np.testing.assert_allclose(fisher_scores(scaled, labels), expected, rtol=1e-6)
    order = np.random.default_rng(2).permutation(len(labels))
    found = fisher_scores(representations[order], 40 - labels[order])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
@pytest.mark.parametrize("value", [0.0, 1.0, 1234.5])
def test_constant_channels_score_nothing(value, shrinkage):
    representations, labels = sample()
    representations = np.float32(representations)
    representations[..., 2] = value
    # Another rounding of the same value, as another batch may give.
    representations[::3, ..., 2] *= 1 + np.finfo(np.float32).eps
    scores = fisher_scores(representations, labels, shrinkage)
    assert scores[2] == 0
    assert (scores[[0, 1, 3]] > 0).all()


def test_more_positions_than_images_stay_finite():
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 1, 1, 2])
    representations = rng.standard_normal((5, 6, 6, 3))
    representations[..., 1] += 3 * labels[:, None, None]
    scores = fisher_scores(representations, labels)
    assert np.isfinite(scores).all()
    assert np.argmax(scores) == 1
    # Nothing varies within the classes at all.
    [perfect] = fisher_scores(np.float32(labels[:4]).reshape(4, 1, 1, 1), labels[:4])
    assert 1e6 < perfect < np.inf


def test_images_alone_in_their_class_are_left_out():
    representations, labels = sample()
    lonely = np.concatenate([representations, 100 + representations[:2]])
    found = fisher_scores(lonely, np.append(labels, [70, 80]))
    np.testing.assert_allclose(found, fisher_scores(representations, labels))


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 2]])
def test_too_few_classes(labels):
    with pytest.raises(UserError, match=r"the sample has [01] classes with two images or more"):
        fisher_scores(np.zeros((4, 1, 1, 1)), np.array(labels))


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"Expected representations \[N, h, w, C\] and labels"):
        fisher_scores(np.zeros((4, 1, 1, 1)), np.zeros(3, int))


def test_several_labels_score_the_mean_of_each():
    x, labels = sample()
    several = np.stack([labels > 1, labels == 4, np.zeros_like(labels)], axis=1).astype(np.int32)
    each = [fisher_scores(x, own) for own in several.T[:2]]
    np.testing.assert_allclose(fisher_scores(x, several), np.mean(each, axis=0))
    with pytest.raises(UserError, match="give a larger sample"):
        fisher_scores(x, several[:, 2:])
