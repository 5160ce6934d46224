"""Attribute inference: a label that nobody released, told from representations.

The attacker owns auxiliary images with their representations, so it knows the attribute of each,
trains a classifier, and asks it about test images. What that is worth shows beside two others: the
most frequent value for everybody, and the same classifier on the pixels themselves
(Song and Raghunathan 2020, arXiv:2004.00053, do the same to embeddings of text).

    own, attacked = Labelled(x, values["auxiliary"]), Labelled(x_test, values["test"])
    right = infer(own, attacked, cloud_nn(3, image_size=32), schedule, key)
    majority = majority_right(own.labels, attacked.labels)
    bootstrap(right, mean_of), bootstrap(majority, mean_of)
"""

from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.inference.classifiers import Labelled, logits_of, train_classifiers
from privynet_jax.estimates.linear_probe import RIDGES, pooled
from privynet_jax.training.models.linear_attack import LinearStatistics, best_ridge
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.tasks import Schedule

# Share of the attacker's images that choose the ridge; numbers that vary less say nothing.
_HELD_OUT, _SILENT = 0.2, 1e-6
_BATCH = 128
_pooled = jax.jit(pooled)


def infer(
    own: Labelled,
    attacked: Labelled,
    network: CloudNN,
    schedule: Schedule,
    key: jax.Array,
    *,
    repeats: int = 2,
) -> np.ndarray:
    """Trains classifiers of the attribute, and asks them.

    Args:
        own: representations of the attacker's M images, with their attribute.
        attacked: those of N other images, with the truth.
        network: of as many classes as the attribute may have values.
        schedule: of each classifier.
        key: of all that is random.
        repeats: classifiers, with initial values and orders of their own.

    Returns:
        float64 [N], the share of the repeats that were right about an image.

    Raises:
        UserError: training diverged.
    """
    everything = [np.arange(len(own.labels))] * repeats
    trained = train_classifiers(own, everything, network, schedule, key)
    answers = logits_of(trained, network, attacked.representations).argmax(axis=-1)
    return (answers == attacked.labels).mean(axis=0)


def infer_by_probe(own: Labelled, attacked: Labelled, num_values: int) -> np.ndarray:
    """Asks a linear classifier of each channel's mean, spread and quarters (`linear_probe.pooled`).

    It finds at once what a network trained for seconds may not have begun to: how strongly
    channels respond over the whole picture.

    Args:
        own: as of `infer`.
        attacked: likewise.
        num_values: how many values the attribute may have.

    Returns:
        float64 [N], 1 where it was right.
    """
    numbers = _numbers(own.representations)
    mean, spread = numbers.mean(axis=0), numbers.std(axis=0)
    scale = np.where(spread > _SILENT, 1 / np.maximum(spread, _SILENT), 0)
    answers = np.eye(num_values)[own.labels]
    fitted = len(numbers) - max(1, round(_HELD_OUT * len(numbers)))

    def prepared(x: np.ndarray) -> np.ndarray:
        return np.pad((x - mean) * scale, ((0, 0), (0, 1)), constant_values=1.0)

    def sums(rows: slice) -> LinearStatistics:
        x, y = prepared(numbers[rows]), answers[rows]
        return LinearStatistics(x.T @ x, x.T @ y, float(np.sum(y * y)), len(x))

    weights = best_ridge(sums(slice(fitted)), sums(slice(fitted, None)), RIDGES)
    found = (prepared(_numbers(attacked.representations)) @ weights).argmax(axis=1)
    return np.float64(found == attacked.labels)


def _numbers(representations: Any) -> np.ndarray:
    """float64 [N, 6 D]."""
    starts = range(0, len(representations), _BATCH)
    batches = [np.asarray(_pooled(representations[start : start + _BATCH])) for start in starts]
    return np.float64(np.concatenate(batches)).reshape(len(representations), -1)


def majority_right(own_values: np.ndarray, attacked_values: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: who is right that always answers the attacker's most frequent value."""
    return np.float64(attacked_values == np.bincount(own_values).argmax())
