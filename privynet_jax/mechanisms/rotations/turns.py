"""Turning several pictures' features into each other, and back: rotations of two or three parts.

Parts f are float32 [P, h, w, D]: those of the picture that is to be hidden come first, then those
of other pictures. A turn is a rotation R, float32 [P, P], and what is released is R f, in which
every part is a mixture. Its first column is all that brings the hidden part back, f_0 = R_p0 z_p,
because R is orthogonal; so that is what a device keeps (`kept`).

    z = packed(turned(turn, parts))  # float32 [h, w, P * D]
    turned_back(turn[:, 0], unpacked(z, 2))  # parts[0]
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = math.pi * (3 - math.sqrt(5))


def packed(parts: jax.Array) -> jax.Array:
    """[..., P, h, w, D] -> [..., h, w, P * D], one part after the other."""
    last = jnp.moveaxis(parts, -4, -2)
    return last.reshape(*last.shape[:-2], -1)


def unpacked(z: jax.Array, parts: int) -> jax.Array:
    """[..., h, w, P * D] -> [..., P, h, w, D]."""
    return jnp.moveaxis(z.reshape(*z.shape[:-1], parts, -1), -2, -4)


def turned(turn: jax.Array, parts: jax.Array) -> jax.Array:
    """Returns R f: [..., P, P] and [..., P, h, w, D] -> [..., P, h, w, D]."""
    return jnp.einsum("...pq,...qhwd->...phwd", turn, parts, precision=jax.lax.Precision.HIGHEST)


def turned_back(kept: jax.Array, parts: jax.Array) -> jax.Array:
    """Returns the hidden part: [..., P] and [..., P, *shape] -> [..., *shape]."""
    shape = parts.shape[kept.ndim :]
    flat = parts.reshape(*kept.shape, -1)
    found = jnp.einsum("...p,...pk->...k", kept, flat, precision=jax.lax.Precision.HIGHEST)
    return found.reshape(*kept.shape[:-1], *shape)


def of_angles(angles: jax.Array) -> jax.Array:
    """Returns multiplication by exp(i angle) of real and imaginary part: [...] -> [..., 2, 2]."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)


def of_axes(axes: jax.Array) -> jax.Array:
    """Returns f -> o f o* on imaginary parts, of unit quaternions o without a real one.

    That is half a turn around o: 2 o o' - 1. Axes are float32 [..., 3], turns [..., 3, 3].
    """
    return 2 * axes[..., :, None] * axes[..., None, :] - jnp.eye(3)


def spread_angles(count: int) -> np.ndarray:
    """Returns angles in equal steps, float32 [count], of which none is 0."""
    return np.float32(2 * math.pi * (np.arange(count) + 0.5) / count)


def spread_axes(count: int) -> np.ndarray:
    """Returns axes evenly over half a sphere, float32 [count, 3]: o and -o turn alike.

    They lie on a Fibonacci spiral.
    """
    height = (np.arange(count) + 0.5) / count
    radius, angle = np.sqrt(1 - height**2), _GOLDEN * np.arange(count)
    return np.float32(np.stack([height, radius * np.cos(angle), radius * np.sin(angle)], -1))
