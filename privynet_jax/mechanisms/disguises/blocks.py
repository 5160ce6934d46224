"""Pictures in square blocks, whose places a secret exchanges."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.mechanism import Mechanism


class Secret(NamedTuple):
    """What all pictures of a release are disguised by.

    Attributes:
        order: int [B], which block of the picture lies in each place of the release.
        parts: what else a mechanism needs.
    """

    order: jax.Array
    parts: jax.Array


def block_count(mechanism: Mechanism, shape: tuple[int, ...], side: int) -> int:
    """Returns how many blocks of a side a picture (H, W, 3) has; UserError where none fit."""
    height, width, _ = shape
    if height % side or width % side:
        both = math.gcd(height, width)
        fitting = [str(one) for one in range(2, both + 1) if not both % one]
        raise UserError(
            f"mechanism {mechanism} has blocks of {side} x {side} pixels, and pictures are "
            f"{height} x {width}; allowed are sides that both divide by, which for these pictures "
            f"are {', '.join(fitting) or 'none'}; give others, or leave the mechanism out"
        )
    return height // side * (width // side)


def to_blocks(images: jax.Array | np.ndarray, side: int) -> jax.Array | np.ndarray:
    """Returns [..., B, 3, side, side] of images [..., H, W, 3], in rows of blocks."""
    *rest, height, width, channels = images.shape
    cut = images.reshape(*rest, height // side, side, width // side, side, channels)
    places = len(rest) + np.array([0, 2, 4, 1, 3])
    moved = cut.transpose(*range(len(rest)), *map(int, places))
    return moved.reshape(*rest, -1, channels, side, side)


def from_blocks(blocks: jax.Array | np.ndarray, width: int) -> jax.Array | np.ndarray:
    """Returns images [..., H, width, 3] of `to_blocks`' form."""
    *rest, count, channels, side, _ = blocks.shape
    across = width // side
    cut = blocks.reshape(*rest, count // across, across, channels, side, side)
    places = len(rest) + np.array([0, 3, 1, 4, 2])
    moved = cut.transpose(*range(len(rest)), *map(int, places))
    return moved.reshape(*rest, count // across * side, width, channels)


def exchanged(secret: Secret, blocks: jax.Array) -> jax.Array:
    """Returns blocks [..., B, 3, b, b] in the release's places."""
    return jnp.take(blocks, secret.order, axis=-4)


def put_back(secret: Secret, blocks: jax.Array) -> jax.Array:
    """Returns what `exchanged` was given."""
    return jnp.take(blocks, jnp.argsort(secret.order), axis=-4)
