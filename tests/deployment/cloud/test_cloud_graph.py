"""The cloud NN's ONNX file against its Flax module, at every way of folding."""

import jax
import numpy as np
import pytest

from privynet_jax.deployment.cloud.cloud_graph import cloud_graph
from privynet_jax.deployment.cloud.cloud_parameters import parameter_shapes
from privynet_jax.platform.onnx_files.onnx_run import OnnxRun
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.models.networks import network_for


# Folded by 4, by 2, as it is with an odd grid, unfolded by 2 and by 4.
@pytest.mark.parametrize("side", [32, 16, 9, 4, 2])
def test_it_equals_the_network(side):
    shape, rng = (side, side, 5), np.random.default_rng(side)
    x = rng.laplace(size=(3, *shape)).astype(np.float32)  # of any sign, as noise leaves them
    network = network_for(shape, 7, width=12)
    drawn = jax.jit(network.init)(jax.random.key(0), x)
    # Zeros, which the second kernels begin with, would hide their place.
    params = jax.tree.map(lambda a: np.float32(a + 0.1 * rng.normal(size=a.shape)), drawn)
    expected = np.asarray(jax.jit(network.apply)(params, x))
    given = by_path(params)
    assert {name: a.shape for name, a in given.items()} == parameter_shapes(shape, 7, 12)
    run = OnnxRun(cloud_graph(shape), "make it anew")
    found = run.run({"representations": x, **given})
    assert np.abs(expected).max() > 0.1
    # float32, the same sums in another order.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(run.run({"representations": x[:1], **given}), found[:1], atol=1e-5)
