"""The product of a layer, against its definition by elementary sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.training.models.products import dense_product


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 5), (5, 24), (8, 8)])
def test_product_and_gradients(inputs, outputs):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, 4, 2, inputs)), rng.normal(size=(inputs, outputs))
    weights = rng.normal(size=(3, 4, 2, outputs))

    def loss(x, kernel):
        return jnp.vdot(weights, dense_product(x, kernel))

    arguments = jnp.float32(x), jnp.float32(kernel)
    of_x, of_kernel = jax.jit(jax.grad(loss, (0, 1)))(*arguments)
    # Sums of at most 24 products of a few units.
    close = {"atol": 24 * 10 * 1.2e-7, "rtol": 1e-5}
    np.testing.assert_allclose(dense_product(*arguments), x @ kernel, **close)
    np.testing.assert_allclose(of_x, weights @ kernel.T, **close)
    np.testing.assert_allclose(of_kernel, np.einsum("abck,abcm->km", x, weights), **close)
