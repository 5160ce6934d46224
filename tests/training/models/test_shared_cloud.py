"""One cloud NN for several cuts, against the cloud NN of one."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.several_cuts import JoinedMaps
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.models.shared_cloud import CutMap, SharedCloudNN, shared_task
from privynet_jax.training.tasks import cloud_task

CUTS = (CutMap(8, (0, 1, 2)), CutMap(4, (4, 3)))


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(3)
    return [np.float32(rng.uniform(size=(5, own.side, own.side, 3))) for own in CUTS]


@pytest.fixture(scope="module")
def answered(maps):
    """The network, its parameters at random, and what it answers."""
    network, x = SharedCloudNN(7, CUTS, 32, 8), JoinedMaps(maps)[:]
    params = jax.jit(network.init)(jax.random.key(0), x)
    return network, params, jax.jit(network.apply)(params, x)


@pytest.mark.parametrize("sides", [(8, 4), (15, 7), (7, 3, 1), (5, 5)])
def test_maps_side_by_side_are_had_back(sides):
    rng = np.random.default_rng(sides)
    maps = [rng.uniform(size=(2, side, side, 2)) for side in sides]
    joined = JoinedMaps(maps)[:]
    for i, (own, side) in enumerate(zip(maps, sides, strict=True)):
        np.testing.assert_array_equal(CutMap(side, (2 * i + 1, 2 * i)).of(joined), own[..., ::-1])


@pytest.mark.parametrize("i", range(len(CUTS)))
def test_each_cut_is_answered_as_by_a_cloud_nn_of_its_own_stem(maps, answered, i):
    _, params, logits = answered
    shared = {k: v for k, v in params["params"].items() if not k.startswith("WorkingGrid")}
    own = {"params": shared | {"WorkingGrid_0": params["params"][f"WorkingGrid_{i}"]}}
    x = CUTS[i].of(JoinedMaps(maps)[:])
    alone = jax.jit(CloudNN(7, 32, 8).apply)(own, x)
    assert logits.shape == (5, len(CUTS), 7)
    # Sums of at most 9 x 16 products of order 1, in float32, three layers deep.
    np.testing.assert_allclose(logits[:, i], alone, atol=1e-4)
    assert np.abs(logits[:, i] - logits[:, 1 - i]).max() > 1e-3


def test_all_cuts_count_alike(answered):
    network, _, logits = answered
    labels, task, alone = np.arange(5), shared_task(network, several=False), cloud_task(network)
    losses = [alone.loss(logits[:, i], labels) for i in range(len(CUTS))]
    np.testing.assert_allclose(task.loss(logits, labels), np.mean(losses), rtol=1e-6)
    measures = [alone.measure(logits[:, i], labels)["accuracy"] for i in range(len(CUTS))]
    found = task.measure(logits, labels)["accuracy"]
    np.testing.assert_allclose(found, np.mean(measures, axis=0))
