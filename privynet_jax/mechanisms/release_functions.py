"""What a device would run: the release of pictures under a mechanism, as pure functions.

release = release_function(local, mechanism)
release(secret, key, images, rows)  # float32 [N, h, w, depth], can be jitted and exported
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from privynet_jax.mechanisms.mechanism import Local, Mechanism


def of_representations(
    mechanism: Mechanism, secret: Any, key: jax.Array, representations: jax.Array, rows: jax.Array
) -> jax.Array:
    """Returns what is released of representations, where the mechanism leaves images alone.

    They are normalised, float32 [N, h, w, D]; noise may make them negative. Of the
    release's secret and its key, and each image's row, int [N]: equal rows get equal randomness.
    """
    _, after = image_keys(key, rows)
    of_one = functools.partial(mechanism.of_representation, secret)
    return jax.vmap(of_one)(after, representations)


def image_keys(key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of each row's `of_image` and of its `of_representation`, [N] each."""
    keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row)))(rows)
    return keys[:, 0], keys[:, 1]


def release_function(
    local: Local, mechanism: Mechanism
) -> Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]:
    """Returns what a device would run: a pure function that can be jitted and exported.

    It takes the release's secret and key; images float32 [N, H, W, 3] in [0, 1]; and int [N], each
    image's row in the release, from which its randomness comes. It returns what is released,
    float32 [N, h, w, depth]; `local` makes the normalised representation of what the mechanism
    makes of images, and is the identity where pictures themselves are released.
    """

    def release(secret: Any, key: jax.Array, images: jax.Array, rows: jax.Array) -> jax.Array:
        before, _ = image_keys(key, rows)
        changed = jax.vmap(functools.partial(mechanism.of_image, secret))(before, images)
        return of_representations(mechanism, secret, key, local(changed), rows)

    return release


def expected_release(local: Local, mechanism: Mechanism, unit: float) -> Local:
    """Returns images -> what is released of them on average, over a unit; differentiable."""

    def represent(images: jax.Array) -> jax.Array:
        clean = local(jax.vmap(mechanism.expected_image)(images))
        return jax.vmap(mechanism.expected)(clean) / unit

    return represent


def release_by_content(
    local: Local, mechanism: Mechanism, key: jax.Array, unit: float = 1.0, secret: Any = None
) -> Local:
    """Returns images -> what is released of them, over a unit; equal ones get equal randomness."""
    release = release_function(local, mechanism)

    def represent(images: jax.Array) -> jax.Array:
        values = jnp.uint32(jnp.round(255 * images)).reshape(len(images), -1)
        places = jnp.arange(values.shape[1], dtype=jnp.uint32)
        # Of two different images the same with a chance of about one in four billion.
        numbers = jnp.sum(_mixed(values + 256 * places), axis=1, dtype=jnp.uint32)
        return release(secret, key, images, numbers) / unit

    return represent


def _mixed(x: jax.Array) -> jax.Array:
    """uint32 -> the same, all bits of which depend on all: MurmurHash3's last step."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
