"""Muon against singular value decompositions, AdamW for what is no matrix, losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from privynet_jax.training.optimisers import LOGARITHMIC, SQUARED, adamw, clipped, muon


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


def test_large_gradients_are_clipped_to_norm_one():
    update = clipped(optax.sgd(1.0))
    found = first_update(update, {"w": jnp.zeros(2)}, {"w": jnp.array([30.0, 40.0])})["w"]
    np.testing.assert_allclose(found, [-0.6, -0.8], rtol=1e-6)


def test_the_logarithmic_loss_is_psnr_on_another_scale():
    rng = np.random.default_rng(0)
    images, estimates = (np.float32(rng.random((5, 4, 4, 3))) for _ in range(2))
    estimates[0] = images[0]
    # An exact image counts as 1e-5 in squared error; ten decibels are one factor of ten.
    errors = np.mean(np.square(np.float64(estimates) - images), axis=(1, 2, 3)) + 1e-5
    psnr = np.mean(-10 * np.log10(errors))
    # Sums of 48 squares and 5 logarithms in float32.
    found = float(LOGARITHMIC(estimates, images))
    assert found == pytest.approx(-0.02 * psnr * np.log(10) / 10, rel=1e-5)


def test_both_losses_pull_equally_at_the_usual_error():
    images = np.full((1, 2, 2, 3), 0.5, np.float32)
    estimates = images + np.float32(np.sqrt(0.02))
    one, other = (jax.grad(loss)(estimates, images) for loss in (SQUARED, LOGARITHMIC))
    # The error that counts as none is 1e-5 / 0.02 of the usual one.
    np.testing.assert_allclose(one, other, rtol=1e-3)
