"""Other architectures: they begin at the linear estimate, whatever the layer, and can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.comparing.contenders import Transformer, UNet, contenders
from privynet_jax.attacks.tuning import Budget

SIZE, DEPTH = 16, 3


def error(network, variables, x, estimate):
    return jnp.mean(jnp.square(estimate - 0.5 + network.apply(variables, x, estimate)))


@functools.partial(jax.jit, static_argnums=0)
def before_and_after_a_step(network, x, estimate):
    """The first correction, and the error before and after one step of descent."""
    variables = network.init(jax.random.key(0), x, estimate)
    before, slopes = jax.value_and_grad(error, argnums=1)(network, variables, x, estimate)
    moved = jax.tree.map(lambda value, slope: value - 0.1 * slope, variables, slopes)
    correction = network.apply(variables, x, estimate)
    return correction, before, error(network, moved, x, estimate)


@pytest.mark.parametrize(
    ("network", "side"),
    [(UNet(SIZE, widths=(4, 6)), 16), (Transformer(SIZE, width=8, num_layers=1), 2)],
    ids=["unet", "transformer"],
)
def test_the_correction_is_zero_at_first_and_then_moves(network, side):
    rng = np.random.default_rng(0)
    x = np.float32(rng.exponential(size=(2, side, side, DEPTH)))
    estimate = np.float32(rng.random((2, SIZE, SIZE, 3)))
    correction, before, after = before_and_after_a_step(network, x, estimate)
    assert correction.shape == estimate.shape
    assert correction.dtype == jnp.float32
    np.testing.assert_array_equal(correction, 0)
    assert after < before


def test_each_has_a_name_of_its_own():
    assert [attack.name for attack in contenders(Budget(steps=1))] == ["unet", "transformer"]
