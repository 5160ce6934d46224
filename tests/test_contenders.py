"""Other architectures: they begin at the linear estimate, whatever the layer, and can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.contenders import Transformer, UNet, contenders
from privynet_jax.attacks.tuning import Budget

SIZE, DEPTH = 16, 3
NETWORKS = [UNet(SIZE, widths=(4, 6)), Transformer(SIZE, width=8, num_layers=1)]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("side", [16, 8, 4, 2])
def test_the_correction_is_zero_at_first_and_then_moves(network, side):
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.exponential(size=(2, side, side, DEPTH)))
    estimate = jnp.float32(rng.random((2, SIZE, SIZE, 3)))
    variables = network.init(jax.random.key(0), x, estimate)
    correction = network.apply(variables, x, estimate)
    assert correction.shape == estimate.shape
    assert correction.dtype == jnp.float32
    np.testing.assert_array_equal(correction, 0)

    def error(variables):
        return jnp.mean(jnp.square(estimate - 0.5 + network.apply(variables, x, estimate)))

    gradients = jax.grad(error)(variables)
    moved = jax.tree.map(lambda value, slope: value - 0.1 * slope, variables, gradients)
    assert error(moved) < error(variables)


def test_each_has_a_name_of_its_own():
    assert [attack.name for attack in contenders(Budget(steps=1))] == ["unet", "transformer"]
