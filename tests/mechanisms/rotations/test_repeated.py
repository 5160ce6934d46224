"""Several releases of one picture, made by hand."""

import jax
import numpy as np
import pytest

from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.repeated import common_part
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation


@pytest.mark.parametrize("mechanism", [Rotation(), Quaternion()], ids=str)
@pytest.mark.parametrize("count", [2, 5])
def test_two_releases_give_the_hidden_part_away(mechanism, count):
    """Planes through random directions of 72 values meet in one line: the hidden part's."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((4, 3, 3, 8)).astype(np.float32)
    others = rng.standard_normal((count, 4, mechanism.parts - 1, 3, 3, 8)).astype(np.float32)
    hidden = np.broadcast_to(a[None, :, None], (count, 4, 1, 3, 3, 8))
    turn = jax.vmap(jax.vmap(mechanism.turn))(jax.random.split(jax.random.key(0), (count, 4)))
    released = turns.packed(turns.turned(turn, np.concatenate([hidden, others], axis=2)))
    found = common_part(np.asarray(released), mechanism.parts)
    assert found.shape == released.shape[1:]
    assert not found[..., 8:].any()
    signs = np.sign(np.sum(a**3, axis=(1, 2, 3)))[:, None, None, None]
    np.testing.assert_allclose(found[..., :8], signs * a, atol=1e-3)
    # A single one has no line of its own: what is found is not the hidden part.
    one = common_part(np.asarray(released[:1]), mechanism.parts)[..., :8]
    assert np.abs(one - signs * a).max() > 0.1
