"""Multidetasking: its losses by hand, who learns from which, and that the adversary is misled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import Seen, adapted_params
from privynet_jax.mechanisms.adapting.multidetasking import Multidetasking, unlikelihood

TOPOLOGY = Topology(2, (3, 17, 40, 50))


def test_unlikelihood_is_as_worked_by_hand():
    # Softmax: 1/4, 1/4, 1/2; and 1/3 each.
    logits = jnp.log(jnp.array([[1.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    loss = unlikelihood(logits, np.array([2, 0]))
    assert float(loss) == pytest.approx(-(math.log(1 / 2) + math.log(2 / 3)) / 2, rel=1e-5)
    # Where it is certain there is much to gain still: 1 - p is no difference of near numbers.
    certain = unlikelihood(jnp.array([[40.0, 0.0, 0.0]]), np.array([0]))
    assert float(certain) == pytest.approx(40 - math.log(2), rel=1e-5)


def seen_of(mechanism, z, private):
    params = {"adversary": mechanism.adversary.init(jax.random.key(0), z)}
    return Seen(params, None, z, private, jax.random.key(0), TOPOLOGY, None)


def test_adversary_and_local_nn_each_descend_their_own_loss():
    rng = np.random.default_rng(0)
    z, private = jnp.float32(rng.uniform(0, 2, (6, 4, 4, 4))), np.array([0, 1, 2, 0, 1, 2])
    mechanism = Multidetasking(weight=3.0)
    seen = seen_of(mechanism, z, private)

    def term(adversary, z):
        return mechanism.term(seen._replace(params={"adversary": adversary}, z=z))

    def log_chances(adversary, z):
        found = jax.nn.log_softmax(mechanism.adversary.apply(adversary, z))
        return jnp.take_along_axis(found, private[:, None], axis=1)[:, 0]

    def of_adversary(adversary):
        return -log_chances(adversary, z).mean()

    def of_local(z):
        return -3 * jnp.log(1 - jnp.exp(log_chances(seen.params["adversary"], z))).mean()

    slopes = jax.grad(term, argnums=(0, 1))(seen.params["adversary"], z)
    expected = jax.grad(of_adversary)(seen.params["adversary"]), jax.grad(of_local)(z)
    # float32 sums of some tens of products, written in two ways.
    for got, wanted in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6)


def test_the_adversary_learns_and_is_misled(clean, small_parts):
    images = as_float(small_parts.auxiliary.images)
    losses = {}
    for weight in (0.0, 30.0):
        mechanism = Multidetasking(25, 1e-3, weight=weight)
        params = adapted_params(clean, mechanism, jax.random.key(2))
        z = mechanism.representing(clean)(params["local"], images)
        logits = mechanism.adversary.apply(params["adversary"], z)
        losses[weight] = float(unlikelihood(logits, mechanism.private(small_parts)))
    # Unlikelihood is ever more the surer the adversary is; knowing nothing it is log(3/2).
    assert losses[0.0] > math.log(1.5) + 0.2
    assert losses[30.0] < losses[0.0] - 0.2
