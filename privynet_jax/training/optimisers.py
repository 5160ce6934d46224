"""What turns gradients into updates: AdamW, and Muon with a cheaper orthogonalisation.

update, state = muon(1e-3, 1e-4).update(gradients, state, params)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# (learning rate, weight decay) -> what turns gradients into updates.
Optimiser = Callable[[float, float], optax.GradientTransformation]
# Of x in the polynomials that bring singular values near 1 (Keller Jordan's Muon), and how often.
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# Root mean square of an update by AdamW, which Muon's are scaled to (arXiv:2502.16982).
_USUAL_UPDATE = 0.2


def adamw(rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) with optax's usual moments."""
    return optax.adamw(rate, weight_decay=weight_decay)


def muon(rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Muon for kernels, AdamW at three tenths of the rate for the rest, with Nesterov's momentum.

    Each kernel's momentum is replaced by its nearest orthogonal matrix, so that rare directions
    move as far as common ones; updates are as large as AdamW's (arXiv:2502.16982).
    """
    kernels = optax.chain(
        # Without iterations it is the momentum alone; what follows has them on a smaller matrix.
        optax.contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=_matrices),
        optax.stateless(lambda updates, _: jax.tree.map(_orthogonalised, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    others = optax.adamw(0.3 * rate, weight_decay=weight_decay, nesterov=True)
    return optax.partition({True: kernels, False: others}, _are_kernels)


def orthogonal(matrix: jax.Array) -> jax.Array:
    """Returns about U V' of the singular value decomposition U S V' of float32 [m, n].

    As Muon's Newton-Schulz iteration does: x (a + b x'x + c (x'x)^2), five times, which leaves
    singular values between 0.7 and 1.2. All factors are polynomials of the first Gram matrix, so
    they are multiplied out on its min(m, n) rows and meet the matrix once, in place of ten times.
    Only products in full precision allow that.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return orthogonal(matrix.T).T
    matrix /= jnp.linalg.norm(matrix) + 1e-8
    gram = _product(matrix.T, matrix)
    factor = identity = jnp.eye(len(gram), dtype=gram.dtype)
    for _ in range(_ITERATIONS):
        one = _LINEAR * identity + _CUBIC * gram + _QUINTIC * _product(gram, gram)
        factor, gram = _product(one, factor), _product(one, _product(gram, one))
    return _product(matrix, factor)


def _orthogonalised(kernel: jax.Array) -> jax.Array:
    """Everything that a kernel sums over is one side of its matrix."""
    matrix = orthogonal(kernel.reshape(-1, kernel.shape[-1]))
    return _USUAL_UPDATE * max(matrix.shape) ** 0.5 * matrix.reshape(kernel.shape)


def _are_kernels(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim in (2, 4), params)


def _matrices(kernels: Any) -> Any:
    return jax.tree.map(
        lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), kernels
    )


def _product(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)
