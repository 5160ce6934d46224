"""Attribute inference: a label that nobody released, told from representations.

The attacker owns auxiliary images with their representations, so it knows the attribute of each,
trains a classifier, and asks it about test images. What that is worth shows beside two others: the
most frequent value for everybody, and the same classifier on the pixels themselves
(Song and Raghunathan 2020, arXiv:2004.00053, do the same to embeddings of text).

    own, attacked = Labelled(x, values["auxiliary"]), Labelled(x_test, values["test"])
    right = infer(own, attacked, CloudNN(3, image_size=32), schedule, key)
    majority = majority_right(own.labels, attacked.labels)
    bootstrap(right, mean_of), bootstrap(majority, mean_of)
"""

import jax
import numpy as np

from privynet_jax.attacks.inference.classifiers import Labelled, logits_of, train_classifiers
from privynet_jax.estimates.linear_probe import (
    fit_probe,
    gather_probe_sums,
    pool_rows,
    probe_scores,
)
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.tasks import Schedule


def infer(
    own: Labelled,
    attacked: Labelled,
    network: CloudNN,
    schedule: Schedule,
    key: jax.Array,
    *,
    repeats: int = 2,
) -> np.ndarray:
    """Trains `repeats` classifiers of the attribute, each for a schedule, and asks them.

    Args:
        own: representations of the attacker's M images, with their attribute.
        attacked: those of N other images, with the truth.
        network: of as many classes as the attribute may have values.
        schedule: of each classifier.
        key: of all that is random.
        repeats: classifiers, with initial values and orders of their own.

    Returns float64 [N], the share of the classifiers that were right about an image.
    """
    everything = [np.arange(len(own.labels))] * repeats
    trained = train_classifiers(own, everything, network, schedule, key)
    answers = logits_of(trained, network, attacked.representations).argmax(axis=-1)
    return (answers == attacked.labels).mean(axis=0)


def infer_by_probe(own: Labelled, attacked: Labelled, num_values: int) -> np.ndarray:
    """Asks a linear classifier (`linear_probe`); arguments as of `infer`.

    It finds at once what a network trained for seconds may not have begun to: how strongly
    channels respond over the whole picture. Returns float64 [N], 1 where it was right.
    """
    channels = own.representations.shape[-1]
    sums = gather_probe_sums(own.representations, own.labels, num_values)
    probe = fit_probe(sums, range(channels), channels)
    answers = probe_scores(probe, pool_rows(attacked.representations)).argmax(axis=1)
    return np.float64(answers == attacked.labels)


def majority_right(own_values: np.ndarray, attacked_values: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: who is right that always answers the attacker's most frequent value."""
    return np.float64(attacked_values == np.bincount(own_values).argmax())
