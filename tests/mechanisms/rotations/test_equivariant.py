"""The cloud NN commutes with turns, whatever its weights; small layers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.equivariant import (
    CloudSide,
    EquivariantNN,
    compressed,
    modulus_relu,
    normalised,
)
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation

KEY = jax.random.key(5)


def test_what_is_not_linear_by_hand():
    # 3 + 4i has the modulus 5, 0.3 + 0.4i half of one.
    x = jnp.array([[3.0, 0.3], [4.0, 0.4]])[None]
    np.testing.assert_allclose(modulus_relu(x)[0], [[3, 0.15], [4, 0.2]], rtol=1e-6)
    scale = np.log1p([5.0, 0.5]) / [5.0, 0.5]
    np.testing.assert_allclose(compressed(x)[0], x[0] * scale, rtol=1e-6)
    # Root mean square of 3, 4, 0.3, 0.4: sqrt(25.25 / 4).
    np.testing.assert_allclose(normalised(x)[0], x[0] / np.sqrt(25.25 / 4), rtol=1e-6)


def moved(params):
    """Weights of which none is zero, as after training."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    noise = [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return structure.unflatten(noise)


@pytest.mark.parametrize(("mechanism", "side"), [(Rotation(), 4), (Quaternion(), 16)], ids=str)
def test_turned_features_come_back_as_turned_answers(mechanism, side):
    f = jax.random.normal(KEY, (5, mechanism.parts, side, side, 6))
    network = CloudSide(image_size=32, width=8)
    params = moved(network.init(KEY, f))
    turn = jax.vmap(mechanism.turn)(jax.random.split(KEY, 5))
    answers, of_turned = (network.apply(params, x) for x in (f, turns.turned(turn, f)))
    expected = jnp.einsum("npq,nqc->npc", turn, answers)
    # Answers are of root mean square 1; float32 through some ten layers.
    np.testing.assert_allclose(of_turned, expected, atol=1e-4)
    assert np.abs(of_turned - answers).max() > 0.1


@pytest.mark.parametrize("mechanism", [Rotation(), Quaternion()], ids=str)
def test_the_device_decodes_the_same_at_every_angle(mechanism):
    parts = mechanism.parts
    f = jax.random.normal(KEY, (4, parts, 8, 8, 6))
    turn = jax.vmap(mechanism.turn)(jax.random.split(KEY, 4))
    network = EquivariantNN(10, 32, parts, width=8)

    def asked(turn):
        kept = jnp.broadcast_to(turn[:, None, None, :, 0], (4, 8, 8, parts))
        return jnp.concatenate([turns.packed(turns.turned(turn, f)), kept], axis=-1)

    none = jnp.broadcast_to(jnp.eye(parts), (4, parts, parts))
    params = moved(network.init(KEY, asked(none)))
    logits = network.apply(params, asked(none))
    np.testing.assert_allclose(network.apply(params, asked(turn)), logits, atol=1e-4)
    # With another query's angle, it decodes something else.
    wrong = asked(turn).at[..., -parts:].set(asked(turn[::-1])[..., -parts:])
    assert np.abs(network.apply(params, wrong) - logits).max() > 0.1
