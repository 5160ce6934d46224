"""What is private, that an adversary learns it, and who learns from which loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.noise import noise_parts

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.adapting.attribute_keeping import AttributeNN, answers, learning
from privynet_jax.mechanisms.adapting.declustering import Declustering
from privynet_jax.mechanisms.words import parse_mechanism

COUNTS = {"target": 4, "auxiliary": 30, "validation": 2, "test": 4}


def test_brightness_is_in_thirds_of_the_public_pictures():
    parts = noise_parts(COUNTS, 8)
    private = Declustering().private(parts)
    order = np.argsort(parts.auxiliary.images.mean(axis=(1, 2, 3)))
    np.testing.assert_array_equal(np.sort(private), np.repeat([0, 1, 2], 10))
    assert (np.diff(private[order]) >= 0).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("declustering:attribute=class", "allowed: brightness or contrast or colour"),
        ("declustering:weight=-1", "weight=-1.0; allowed: 0 or more"),
        ("multidetasking:weight=inf", "weight=inf; allowed: 0 or more"),
    ],
)
def test_what_cannot_be_kept_private_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        parse_mechanism(text)


def test_the_adversary_is_given_means_of_quarters_and_of_squares():
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, :, :, 0] = np.expm1([[1, 2], [3, 4]])
    network = AttributeNN(1)
    params = network.init(jax.random.key(0), x)
    first, second = (params["params"][name] for name in ("Dense_0", "Dense_1"))
    assert first["kernel"].shape == (5, 64)
    hidden = np.maximum(np.array([1, 2, 3, 4, 30 / 4], np.float32) @ first["kernel"], 0)
    # A few float32 products of numbers below 10.
    np.testing.assert_allclose(network.apply(params, x)[0], hidden @ second["kernel"], rtol=1e-4)


def test_nobody_learns_from_the_others_loss():
    network, private = AttributeNN(3), np.array([0, 2])
    z = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (2, 4, 4, 3)), jnp.float32)
    params = network.init(jax.random.key(0), z)

    def sizes(function):
        slopes = jax.grad(lambda params, z: function(network, params, z), argnums=(0, 1))(params, z)
        return [max(float(abs(x).max()) for x in jax.tree.leaves(slope)) for slope in slopes]

    of_adversary = sizes(lambda *given: learning(*given, private))
    assert of_adversary[0] > 1e-3
    assert of_adversary[1] == 0
    of_local = sizes(lambda *given: answers(*given)[:, 1].sum())
    assert of_local[0] == 0
    assert of_local[1] > 1e-3
