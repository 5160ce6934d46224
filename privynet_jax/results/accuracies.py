"""How often answers are right: of images, of classes alike, and of several labels for each image.

accuracies(right, labels)["balanced_accuracy"]
bootstrap(right, functools.partial(balanced_mean_of, labels=labels)).low
"""

import math

import numpy as np

from privynet_jax.results.statistics import checked


def accuracies(right: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns how often answers were right, [N] of 0 and 1, for images of such labels, int [N].

    "accuracy" is the share of images; "balanced_accuracy" the mean over the classes that occur of
    each one's share, so that no class counts for more than another (Brodersen et al. 2010,
    doi:10.1109/ICPR.2010.764); "commonest_class_share" the accuracy of always answering the
    commonest class. All are in [0, 1]. Of several labels for each image, [N, L], these are means
    over labels, each of which has the classes 0 and 1; balanced of those that some images have and
    others have not, NaN without any.
    """
    if right.ndim == 2:
        pairs = zip(right.T, labels.T, strict=True)
        found = [(accuracies(own, label), np.ptp(label) > 0) for own, label in pairs]
        means = {name: float(np.mean([each[name] for each, _ in found])) for name in found[0][0]}
        balanced = [each["balanced_accuracy"] for each, tells in found if tells]
        return means | {"balanced_accuracy": float(np.mean(balanced)) if balanced else math.nan}
    right = checked(right)
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.bincount(members, weights=right) / sizes
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(by_class.mean()),
        "commonest_class_share": float(sizes.max() / len(right)),
    }


def of_images(right: np.ndarray) -> np.ndarray:
    """Returns what share of its labels is right of each image, [N] from [N] or [N, L]."""
    return right.reshape(len(right), -1).mean(axis=1)


def accuracies_of_several(
    scores: np.ndarray, labels: np.ndarray, threshold: float
) -> dict[str, float]:
    """Returns how well scores [N, K], from a threshold on yes, tell labels int [N, K] of 0, 1, -1.

    -1 is for what nobody knows, and counts nowhere. "accuracy" is the share of labels told;
    "balanced_accuracy" the mean over labels of the mean of sensitivity and specificity;
    "average_precision" its mean over labels (as scikit-learn computes it); both of labels that are
    there in some rows and missing in others, NaN without any. "commonest_class_share" is the
    accuracy of always answering what is commoner, for each label.
    """
    from sklearn.metrics import average_precision_score, balanced_accuracy_score

    told = ((scores >= threshold) == (labels > 0))[labels >= 0]
    found: dict[str, list[float]] = {"balanced_accuracy": [], "average_precision": []}
    commonest = 0
    for score, label in zip(scores.T, labels.T, strict=True):
        y, score = label[label >= 0], score[label >= 0]
        counts = np.bincount(y, minlength=2)
        commonest += counts.max()
        if counts.min():
            found["balanced_accuracy"].append(balanced_accuracy_score(y, score >= threshold))
            found["average_precision"].append(average_precision_score(y, score))
    return {
        "accuracy": float(told.mean()),
        "commonest_class_share": float(commonest / len(told)),
        **{name: float(np.mean(each)) if each else math.nan for name, each in found.items()},
    }


def balanced_mean_of(values: np.ndarray, counts: np.ndarray, *, labels: np.ndarray) -> np.ndarray:
    """The statistic "mean over classes of each one's mean", of the classes that were drawn.

    Labels are int [N]; of 0 and 1 for wrong and right it is the balanced accuracy.
    """
    classes = np.eye(len(np.unique(labels)))[np.unique(labels, return_inverse=True)[1]]
    sizes, sums = counts @ classes, counts @ (values[:, None] * classes)
    return (sums / np.maximum(sizes, 1)).sum(axis=1) / (sizes > 0).sum(axis=1)
