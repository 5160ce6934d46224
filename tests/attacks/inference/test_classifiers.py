"""Cloud NNs side by side: batches and dispatches that shrink with the images change no number."""

import jax
import numpy as np

from privynet_jax.attacks.inference import classifiers
from privynet_jax.platform.devices import Execution
from privynet_jax.platform.row_views import JoinedRows
from privynet_jax.training.tasks import Schedule


def logits(x, labels):
    subsets = [np.arange(8), np.arange(4, 12)]
    data = (x, labels, subsets, 3, 8, Schedule(steps=3, batch_size=4), jax.random.key(0))
    return classifiers.train(*data, width=4).logits(x)


def test_memory_decides_no_number(monkeypatch):
    stream = np.random.default_rng(0)
    x = np.float16(stream.exponential(size=(13, 4, 4, 5)))
    labels = stream.integers(3, size=13)
    expected = logits(x, labels)
    assert expected.shape == (2, 13, 3)
    # Three images of both networks at once; rows that are read as they are asked for.
    monkeypatch.setattr(classifiers, "_EVALUATION_BYTES", 3 * 2 * 320)
    found = logits(JoinedRows(x[:5], x[5:]), labels)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_dispatches_shrink_with_the_images(monkeypatch):
    execution = Execution((jax.local_devices()[0],), 2, steps_per_dispatch=10)
    x, labels = np.zeros((6, 4, 4, 5), np.float16), np.zeros(6, int)
    orders = [np.zeros((12, 3), int)] * 2
    # A step of both networks has 6 examples of 160 bytes.
    for limit, expected in ((2**28, [10, 2]), (4 * 960, [4, 4, 4]), (1, [1] * 12)):
        monkeypatch.setattr(classifiers, "_DISPATCH_BYTES", limit)
        found = list(classifiers._dispatches(execution, x, labels, orders))
        assert [steps for steps, *_ in found] == expected
        assert found[0][1][0].shape == (1, 2, expected[0], 3, 4, 4, 5)
