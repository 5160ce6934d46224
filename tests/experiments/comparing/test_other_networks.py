"""Other architectures: they begin at the linear estimate, whatever the layer, and can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.comparing.other_networks import BASELINES, CONTENDERS, Transformer, UNet
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.training.models.attackers import CAPACITIES

SIZE, DEPTH = 16, 3


@pytest.mark.parametrize("side", [16, 2])
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_make_images_of_any_layer(name, side):
    network = BASELINES[name].network(SIZE)
    x = jnp.zeros((2, side, side, DEPTH))
    image, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
    assert image.shape == (2, SIZE, SIZE, 3)


def test_tuned_does_not_choose_among_them():
    training = Training(capacities={**CAPACITIES, **BASELINES, **CONTENDERS})
    [tuned] = named_attacks(["tuned"], training)
    assert [capacity.name for capacity in tuned.capacities] == list(CAPACITIES)


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
