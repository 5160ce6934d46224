"""Cloud NNs side by side: each learns from rows of its own, wherever they are read from."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.inference.classifiers import Labelled, logits_of, train_classifiers
from privynet_jax.errors import UserError
from privynet_jax.platform.rows.row_views import JoinedRows
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.tasks import Schedule

NETWORK, KEY = cloud_nn(3, image_size=8, width=4), jax.random.key(0)


def noise(count):
    return np.float16(np.random.default_rng(0).exponential(size=(count, 4, 4, 5)))


def test_each_network_learns_from_its_own_rows():
    x, labels = noise(13), np.repeat([0, 1, 2], [4, 4, 5])
    subsets = [np.flatnonzero(labels == label) for label in range(3)]
    schedule = Schedule(steps=40, batch_size=4, learning_rate=2e-2)
    data = Labelled(JoinedRows(x[:5], x[5:]), labels)
    trained = train_classifiers(data, subsets, NETWORK, schedule, KEY)
    logits = logits_of(trained, NETWORK, x, np.arange(2, 13))
    assert logits.shape == (3, 11, 3)
    # Who saw one label alone answers with it.
    np.testing.assert_array_equal(logits.argmax(axis=-1), np.tile([[0], [1], [2]], 11))


def test_what_diverges_is_one_line():
    data = Labelled(np.full((4, 4, 4, 5), np.nan), np.zeros(4, int))
    with pytest.raises(UserError, match="diverged; train it with a lower learning rate"):
        train_classifiers(data, [np.arange(4)], NETWORK, Schedule(1, 4), KEY)
