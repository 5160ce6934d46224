"""How arrays [N, H, W, C] are folded, unfolded and padded; shared by every room with a network."""

import jax
import jax.numpy as jnp


def depth_to_space(x: jax.Array, channels: int) -> jax.Array:
    """Spreads [N, h, w, r * r * channels] over [N, h * r, w * r, channels]."""
    count, height, width, depth = x.shape
    ratio = round((depth // channels) ** 0.5)
    x = x.reshape(count, height, width, ratio, ratio, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height * ratio, width * ratio, channels)


def space_to_depth(x: jax.Array, ratio: int) -> jax.Array:
    """Gathers r x r pixels of [N, H, W, C] into [N, H / r, W / r, r * r * C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // ratio, ratio, width // ratio, ratio, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, height // ratio, width // ratio, ratio * ratio * channels)


def same_padded(x: jax.Array, margin: int) -> tuple[jax.Array, str]:
    """Returns an array and the padding with which a convolution of it has x's own size.

    Usually that is x and "SAME". Where the kernel, of side 2 * margin + 1, is larger than x (conv5
    of 32 x 32 images), XLA swaps the two, and its CPU backend then runs at 1 GFLOP/s instead of
    60: padding out of its sight prevents that and changes no value.
    """
    if min(x.shape[1:3]) > 2 * margin:
        return x, "SAME"
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return jax.lax.optimization_barrier(jnp.pad(x, around)), "VALID"
