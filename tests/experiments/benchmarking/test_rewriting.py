"""Rewritten functions compute the same, by other products or in another precision."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarking.accelerators import rewriting
from experiments.benchmarking.accelerators.attacks import InPrecision
from privynet_jax.training.models.networks import StrongAttacker


class Halving(nn.Module):
    """A convolution that keeps the grid, and one that halves it."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(3, (2, 2), strides=(2, 2))(nn.relu(nn.Conv(4, (3, 3))(x)))


@pytest.mark.parametrize("rule", [rewriting.by_products, rewriting.by_blocks])
def test_other_products_give_the_same(rule):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 2, 6, 6, 5))
    params = jax.vmap(Halving().init)(keys, x)
    changed = rewriting.rewritten(Halving().apply, {rewriting.CONVOLUTION: rule})

    def gradients(apply):
        # A cosine, so that each output has a gradient of its own.
        return jax.vmap(jax.value_and_grad(lambda p, x: jnp.cos(apply(p, x)).sum()))(params, x)

    found, expected = gradients(changed), gradients(Halving().apply)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # sums of some 100 of about 1


def precisions(jaxpr):
    """Of all products and convolutions, inner functions included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in (rewriting.PRODUCT, rewriting.CONVOLUTION):
            yield equation.params["precision"]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from precisions(value.jaxpr)


def test_a_precision_reaches_every_product_forward_and_backward():
    network = StrongAttacker(16)
    x, estimate = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 16, 16, 3))
    params = network.init(jax.random.key(0), x, estimate)
    wrapped = InPrecision(network, "default")
    loss = lambda apply, p: apply(p, x, estimate).sum()  # noqa: E731
    gradient = jax.grad(functools.partial(loss, wrapped.apply))
    found = list(precisions(jax.make_jaxpr(gradient)(params).jaxpr))
    default = jax.lax.Precision.DEFAULT
    assert len(found) > 20
    assert set(found) == {(default, default)}
    # On CPU all precisions are one.
    np.testing.assert_allclose(
        wrapped.apply(params, x, estimate), network.apply(params, x, estimate), atol=1e-5
    )
