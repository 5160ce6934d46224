"""What inverse networks minimise.

LOGARITHMIC(estimates, images)  # float32 scalar
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# The squared error at which the gradients of both losses are equally large, so that one clipping
# serves both; and one that counts as none: 50 dB.
_USUAL_ERROR, _LEAST_ERROR = 0.02, 1e-5

# (estimates, images), float32 [N, H, W, 3] each -> float32 scalar.
ImageLoss = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error over all values."""
    return jnp.mean(jnp.square(estimates - images))


def log_error(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean over images of the logarithm of their squared errors: PSNR, but for a scale.

    Privacy loss is the mean of each image's PSNR, so the attacker who minimises this attacks what
    is reported. It cares for images that it already rebuilds well as much as for the others.
    """
    errors = jnp.mean(jnp.square(estimates - images), axis=(1, 2, 3))
    return _USUAL_ERROR * jnp.mean(jnp.log(errors + _LEAST_ERROR))


SQUARED, LOGARITHMIC = squared_error, log_error
