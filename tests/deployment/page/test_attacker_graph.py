"""The attacker's network as ONNX against the one that trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.deployment.page.attacker_graph import attacker_graph
from privynet_jax.errors import UserError
from privynet_jax.platform.onnx_files.onnx_run import REPRESENTATIONS, OnnxRun
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.models.linear_attack import LinearAttack

SIZE = 32


@pytest.mark.parametrize("side", [32, 16, 8, 4])
def test_it_rebuilds_what_the_trained_one_does(side):
    """At every stride, with numbers in place of the zeros that a training begins with."""
    rng, depth, block = np.random.default_rng(side), 5, SIZE // side
    x = np.float32(np.abs(rng.normal(size=(3, side, side, depth))))
    kernel = np.float32(0.05 * rng.normal(size=(3, 3, depth, block**2 * 3)))
    linear = LinearAttack(jnp.asarray(kernel), jnp.full(block**2 * 3, 0.4))
    task = CAPACITIES[STRONG].task(SIZE)
    params = task.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)
    moved = [leaf + 0.02 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, moved)
    expected = np.clip(task.predict(params, linear, x), 0, 1)
    data = attacker_graph(
        by_path(params), kernel, np.asarray(linear.bias), (side, side, depth), SIZE
    )
    found = OnnxRun(data, "again").run({REPRESENTATIONS: x})
    assert np.ptp(expected) > 0.2
    # float32 sums of some hundred products in another order, through eight layers.
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_larger_pictures_are_refused():
    with pytest.raises(UserError, match=r"up to 128 pixels.*have 224; leave --with_attacker out"):
        attacker_graph({}, np.zeros(1), np.zeros(1), (112, 112, 3), 224)
