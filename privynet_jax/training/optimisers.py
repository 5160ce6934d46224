"""What a training minimises, and what turns its gradients into updates: AdamW and Muon.

`tasks` name a loss and an optimiser; `steps` uses them.

    LOGARITHMIC(estimates, images)  # float32 scalar
    update = clipped(muon(2e-3, weight_decay=1e-4))
    updates, memory = update.update(gradients, update.init(params), params)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

# (learning rate, weight decay) -> what turns gradients into updates.
Optimiser = Callable[[float, float], optax.GradientTransformation]
# (estimates, images), float32 [N, H, W, 3] each -> float32 scalar.
ImageLoss = Callable[[jax.Array, jax.Array], jax.Array]

# The squared error at which the gradients of both losses are equally large, so that one clipping
# serves both; and one that counts as none: 50 dB.
_USUAL_ERROR, _LEAST_ERROR = 0.02, 1e-5


def adamw(rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) with optax's usual moments."""
    return optax.adamw(rate, weight_decay=weight_decay)


def muon(rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Muon for kernels, AdamW at three tenths of the rate for the rest, with Nesterov's momentum.

    Each kernel's momentum is replaced by its nearest orthogonal matrix, so that rare directions
    move as far as common ones; updates are as large as AdamW's (arXiv:2502.16982).
    """
    return optax.contrib.muon(
        rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        adam_learning_rate=0.3 * rate,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_as_matrix, params),
        consistent_rms=0.2,
    )


def clipped(update: optax.GradientTransformation) -> optax.GradientTransformation:
    """Limits the norm of all gradients together before an optimiser sees them."""
    return optax.chain(optax.clip_by_global_norm(1.0), update)


def _as_matrix(kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
    """Everything that a kernel sums over is one side of its matrix; others are no matrices."""
    if kernel.ndim not in (2, 4):
        return None
    return optax.contrib.MuonDimensionNumbers(tuple(range(kernel.ndim - 1)), kernel.ndim - 1)


def squared_loss(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error over all values."""
    return jnp.mean(jnp.square(estimates - images))


def log_loss(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean over images of the logarithm of their squared errors: PSNR, but for a scale.

    Privacy loss is the mean of each image's PSNR, so the attacker who minimises this attacks what
    is reported. It cares for images that it already rebuilds well as much as for the others.
    """
    errors = jnp.mean(jnp.square(estimates - images), axis=(1, 2, 3))
    return _USUAL_ERROR * jnp.mean(jnp.log(errors + _LEAST_ERROR))


SQUARED, LOGARITHMIC = squared_loss, log_loss
