"""Optimisers, against optax's own and the singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from privynet_jax.training.optimisers import adamw, muon


def first_update(optimiser, params, gradients):
    return optimiser.update(gradients, optimiser.init(params), params)[0]


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (20, 6)])
def test_muon_orthogonalises_what_a_kernel_sums_over(shape):
    gradient = np.float32(np.random.default_rng(0).normal(size=shape))
    params = {"kernel": jnp.zeros(shape)}
    update = first_update(muon(0.1, 0.0), params, {"kernel": gradient})["kernel"]
    matrix = np.asarray(update).reshape(-1, shape[-1])
    left, _, right = np.linalg.svd(gradient.reshape(matrix.shape), full_matrices=False)
    # Five iterations of Newton and Schulz leave singular values between about 0.7 and 1.2.
    scale = 0.1 * 0.2 * np.sqrt(max(matrix.shape))
    singular = np.diag(left.T @ matrix @ right.T) / -scale
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_biases_get_adamw_at_three_tenths_of_the_rate():
    params = {"bias": jnp.array([1.0, -2.0])}
    gradients = {"bias": jnp.array([0.5, 0.5])}
    ours = first_update(muon(0.1, 0.01), params, gradients)["bias"]
    nesterov = optax.adamw(0.03, weight_decay=0.01, nesterov=True)
    theirs = first_update(nesterov, params, gradients)["bias"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("make", [adamw, muon])
def test_updates_are_proportional_to_the_rate(make):
    params = {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}
    gradients = jax.tree.map(lambda x: 0.3 * x, params)
    one = first_update(make(1.0, 0.1), params, gradients)
    tenth = first_update(make(0.1, 0.1), params, gradients)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(tenth), strict=True):
        np.testing.assert_allclose(0.1 * a, b, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 32, 24), (12, 40)])
def test_muon_is_that_of_optax(shape):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.float32(rng.normal(size=shape)), "bias": jnp.ones(3)}
    theirs = optax.contrib.muon(
        0.1,
        weight_decay=0.01,
        adam_weight_decay=0.01,
        adam_learning_rate=0.03,
        muon_weight_dimension_numbers=lambda params: {
            "kernel": optax.contrib.MuonDimensionNumbers(
                tuple(range(len(shape) - 1)), len(shape) - 1
            ),
            "bias": None,
        },
        consistent_rms=0.2,
    )
    states = [one.init(params) for one in (muon(0.1, 0.01), theirs)]
    for _ in range(3):
        # Columns of sizes from 1 to 1e-3, as momenta have them: small ones hold most rounding.
        gradient = rng.normal(size=shape) * np.geomspace(1, 1e-3, shape[-1])
        gradients = {"kernel": jnp.float32(gradient), "bias": jnp.ones(3)}
        (own, states[0]), (other, states[1]) = (
            one.update(gradients, state, params)
            for one, state in zip((muon(0.1, 0.01), theirs), states, strict=True)
        )
        # Of values up to 0.02 sqrt(288) = 0.3; a rounding grows by up to 3.4^5 = 480.
        np.testing.assert_allclose(own["kernel"], other["kernel"], atol=480 * 0.3 * 1.2e-7)
        np.testing.assert_allclose(own["bias"], other["bias"], rtol=1e-5)
