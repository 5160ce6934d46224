"""What trained attackers minimise, and which squared error a mean of it stands for.

`attackers` gives each network its own; `convergence` compares stretches of a training by them.

    LOGARITHMIC.of(estimates, images)  # float32 scalar
    LOGARITHMIC.error(-0.09)  # 0.011
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# The squared error at which the gradients of both losses are equally large, so that one clipping
# serves both; and one that counts as none: 50 dB.
_USUAL_ERROR, _LEAST_ERROR = 0.02, 1e-5


class ImageLoss(NamedTuple):
    """A loss of image estimates.

    Attributes:
        of: (estimates, images), float32 [N, H, W, 3] each -> float32 scalar.
        error: mean of such scalars -> the mean squared error it stands for. Losses themselves may
            be negative, and have no ratios.
    """

    of: Callable[[jax.Array, jax.Array], jax.Array]
    error: Callable[[float], float]


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


SQUARED = ImageLoss(squared_error, float)
# The geometric mean over images, of errors that count as none included.
LOGARITHMIC = ImageLoss(log_error, lambda loss: math.exp(loss / _USUAL_ERROR))
