"""DISCO: the share of zeros, who learns from what, and what its filter costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import Seen
from privynet_jax.mechanisms.adapting.disco import Disco, FilterNN
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.mechanisms.words import parse_mechanism

KEY, TOPOLOGY = jax.random.key(2), Topology(2, (3, 17, 40, 50))


def seen_of(mechanism, z, private):
    seen = Seen({}, None, z, private, KEY, TOPOLOGY, None)
    return seen._replace(params=mechanism.begun(jax.random.key(0), seen))


def test_each_picture_has_channels_of_its_own_zeroed():
    z = jnp.float32(np.random.default_rng(0).uniform(0.1, 2, (40, 4, 4, 8)))
    z = z * (np.arange(8) % 2 == (np.arange(40) % 2)[:, None])[:, None, None] + 0.01
    mechanism = Disco(ratio=0.75)
    released = np.asarray(mechanism.released(seen_of(mechanism, z, None).params, z))
    is_there = (released != 0).any(axis=(1, 2))
    np.testing.assert_array_equal(is_there.sum(axis=1), 2)
    assert len(np.unique(is_there, axis=0)) > 1
    np.testing.assert_array_equal(released, z * is_there[:, None, None])


def test_local_nn_filter_and_adversary_learn_from_what_they_are_to():
    rng = np.random.default_rng(0)
    z, private = jnp.float32(rng.uniform(0, 2, (6, 4, 4, 8))), np.array([0, 1, 2, 0, 1, 2])
    mechanism = Disco(weight=2.0)
    seen = seen_of(mechanism, z, private)

    def term(params, z):
        return mechanism.term(seen._replace(params=params, z=z))

    def crossed(filtering, adversary):
        passed = mechanism.released({"filter": filtering}, z)
        found = jax.nn.log_softmax(mechanism.adversary.apply(adversary, passed))
        return -jnp.take_along_axis(found, private[:, None], axis=1).mean()

    slopes, of_local = jax.grad(term, argnums=(0, 1))(seen.params, z)
    assert not np.any(of_local)
    given = seen.params["filter"], seen.params["adversary"]
    of_filter, of_adversary = jax.grad(crossed, argnums=(0, 1))(*given)
    expected = {"filter": jax.tree.map(lambda x: -2 * x, of_filter), "adversary": of_adversary}
    # float32 sums of some tens of products, written in two ways.
    for name, wanted in expected.items():
        pairs = zip(jax.tree.leaves(slopes[name]), jax.tree.leaves(wanted), strict=True)
        for got, own in pairs:
            np.testing.assert_allclose(got, own, rtol=1e-3, atol=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(of_filter)) > 1e-4


def test_what_leaks_is_the_filter_as_well(clean, small_parts):
    scene = released_scene(clean, Disco(steps=2, ratio=0.5), KEY)
    released = scene.representations("test", slice(8))
    assert ((released != 0).any(axis=(1, 2)).sum(axis=1) <= 2).all()
    local = scene.knowledge(EVERYTHING).local
    images = as_float(small_parts.test.images[:8])
    np.testing.assert_allclose(released, local(images), atol=1e-4)
    # A white box has gradients through it.
    slopes = jax.grad(lambda images: local(images).sum())(images)
    assert float(abs(slopes).max()) > 0


def test_its_filter_s_cost_and_its_words():
    # 4 means to 32 numbers to 4 scores.
    sizes = [x.size for x in jax.tree.leaves(FilterNN().init(KEY, np.zeros((1, 2, 2, 4))))]
    assert Disco().macs((32, 32, 3), TOPOLOGY) == 4 * 32 + 32 * 4 == sum(sizes) - 32 - 4
    assert parse_mechanism(str(Disco(ratio=0.25))) == Disco(ratio=0.25)
    with pytest.raises(UserError, match="allowed: 0 to less than 1"):
        Disco(ratio=1.0)
