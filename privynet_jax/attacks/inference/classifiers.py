"""Several cloud NNs on rows of one array of representations, and what they answer.

`attributes` trains copies with different keys, and `membership` asks its shadows.

    data = Labelled(representations, labels)
    trained = train_classifiers(data, [rows_of_one, rows_of_another], network, schedule, key)
    logits_of(trained, network, representations, asked)  # float32 [2, N, classes]
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.errors import DivergedError
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.prediction import predicted
from privynet_jax.training.tasks import Schedule, cloud_task
from privynet_jax.training.trainer import Course, Member, Trained, train


class Labelled(NamedTuple):
    """Representations float [N, h, w, D], or what reads their rows, with labels int [N]."""

    representations: Any
    labels: np.ndarray


def train_classifiers(
    data: Labelled,
    subsets: Sequence[np.ndarray],
    network: CloudNN,
    schedule: Schedule,
    key: jax.Array,
) -> list[Trained]:
    """Trains one network per subset, int [n] rows of the data, each with randomness of its own.

    Raises:
        DivergedError: training did.
    """
    labels, rate = np.asarray(data.labels, np.int32), schedule.learning_rate
    members = [
        Member(jax.random.fold_in(key, index), data.representations, labels, rows, rate)
        for index, rows in enumerate(subsets)
    ]
    return checked(train(cloud_task(network), members, Course(schedule.steps, schedule.batch_size)))


def checked(trained: list[Trained]) -> list[Trained]:
    """Returns classifiers as they are; DivergedError: training did."""
    if any(own.diverged for own in trained):
        raise DivergedError("a classifier diverged; train it with a lower learning rate")
    return trained


def logits_of(
    trained: Sequence[Trained],
    network: CloudNN,
    representations: Any,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Returns what networks answer about some representations: float32 [networks, n, classes]."""
    task = cloud_task(network)
    return np.stack([predicted(task, own.params, (), representations, rows) for own in trained])
