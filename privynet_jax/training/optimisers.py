"""What turns gradients into updates: AdamW and Muon.

`training` and `attacks.rated` call these with a learning rate, or with a schedule of it.

    update = clipped(muon(2e-3, weight_decay=1e-4))
    updates, memory = update.update(gradients, update.init(params), params)
"""

from collections.abc import Callable

import jax
import optax

# (learning rate or its schedule, weight decay) -> what turns gradients into updates.
Optimiser = Callable[[optax.ScalarOrSchedule, float], optax.GradientTransformation]


def adamw(rate: optax.ScalarOrSchedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) with optax's usual moments."""
    return optax.adamw(rate, weight_decay=weight_decay)


def muon(rate: optax.ScalarOrSchedule, weight_decay: float) -> optax.GradientTransformation:
    """Muon for kernels, AdamW at three tenths of the rate for the rest, with Nesterov's momentum.

    Each kernel's momentum is replaced by its nearest orthogonal matrix, so that rare directions
    move as far as common ones; updates are as large as AdamW's (arXiv:2502.16982).
    """
    # Scaled by hand, because a schedule is a function and a rate a number.
    of_rest = (lambda step: 0.3 * rate(step)) if callable(rate) else 0.3 * rate
    return optax.contrib.muon(
        rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        adam_learning_rate=of_rest,
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
