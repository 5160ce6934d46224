"""Turns by hand, and against complex numbers and quaternions multiplied out."""

import jax
import numpy as np
import pytest

from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation

KEY = jax.random.key(3)


def multiplied(p, q):
    """Hamilton's product of [..., 4], real part first."""
    a, b = p[..., :1], q[..., :1]
    u, v = p[..., 1:], q[..., 1:]
    real = a * b - np.sum(u * v, axis=-1, keepdims=True)
    return np.concatenate([real, a * v + b * u + np.cross(u, v)], axis=-1)


def test_an_angle_multiplies_as_complex_numbers_do():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    z = np.exp(0.7j) * (a + 1j * b)
    found = turns.packed(turns.turned(turns.of_angles(np.float32(0.7)), np.stack([a, b])))
    np.testing.assert_allclose(found, np.concatenate([z.real, z.imag], axis=-1), atol=1e-5)
    # By hand: a quarter of a turn of 2 + 3i is -3 + 2i.
    quarter = turns.of_angles(np.float32(np.pi / 2))
    np.testing.assert_allclose(quarter @ np.float32([2, 3]), [-3, 2], atol=1e-6)


def test_an_axis_multiplies_as_quaternions_do():
    rng = np.random.default_rng(1)
    f = rng.standard_normal((3, 2, 2, 5)).astype(np.float32)
    axis = np.float32([2, -1, 2]) / 3
    o = np.concatenate([[0], axis])
    imaginary = np.concatenate([np.zeros((2, 2, 5, 1)), np.moveaxis(f, 0, -1)], axis=-1)
    product = multiplied(multiplied(o, imaginary), o * [1, -1, -1, -1])
    np.testing.assert_allclose(product[..., 0], 0, atol=1e-6)
    found = turns.turned(turns.of_axes(axis), f)
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), product[..., 1:], atol=1e-5)


@pytest.mark.parametrize("mechanism", [Rotation(), Quaternion()], ids=str)
def test_what_is_kept_brings_the_hidden_part_back(mechanism):
    parts = mechanism.parts
    f = np.random.default_rng(2).standard_normal((parts, 4, 4, 6)).astype(np.float32)
    turn = mechanism.turn(KEY)
    z = turns.packed(turns.turned(turn, f))
    assert z.shape == (4, 4, parts * 6)
    back = turns.turned_back(turn[:, 0], turns.unpacked(z, parts))
    np.testing.assert_allclose(back, f[0], atol=1e-5)
    np.testing.assert_allclose(turn @ turn.T, np.eye(parts), atol=1e-5)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("mechanism", "degrees"), [(Rotation(), 5), (Quaternion(), 22)], ids=str)
def test_turns_that_are_tried_are_near_all_that_are_drawn(mechanism, degrees):
    tried = np.asarray(mechanism.turns(mechanism.tries))
    drawn = np.asarray(jax.vmap(mechanism.turn)(jax.random.split(KEY, 500)))
    # The angle of what is left of a turn, from its trace: 2 cos, or of three parts 1 + 2 cos.
    trace = np.einsum("kpq,npq->nk", tried, drawn).max(axis=1)
    cosine = (trace - mechanism.parts + 2) / 2
    nearest = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    # Float32 tells angles of less than a tenth of a degree apart no more.
    assert nearest.max() < degrees + 0.1
    assert nearest.max() > degrees / 2
    np.testing.assert_allclose(np.linalg.det(tried), 1, atol=1e-5)
