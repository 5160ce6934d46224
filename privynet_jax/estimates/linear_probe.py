"""A linear probe of accuracy: ridge regression of labels on pooled representations, closed form.

As in `linear_attack`, one Gram matrix per layer serves every choice of channels: a subset's normal
equations are a sub-block. Per channel of the compressed representation there are six numbers: its
mean and spread over the image, and its mean in each quarter.

    sums = gather_probe_sums(layer.parts["target"], parts.target.labels, num_classes)
    probe = fit_probe(sums, positions=(0, 3, 5), width=8)
    scores = probe_scores(probe, pooled(released))   # released: float [N, h, w, 8], padded
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.training.models.linear_attack import LinearStatistics, best_ridge, subset_rows

# Relative to the mean diagonal of the Gram matrix; held-out error picks one.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Share of the target images on which the ridge is chosen.
_HELD_OUT = 0.2
_PER_CHANNEL = 6
# Where each image may have several labels: the score from which a label is said to be there.
THRESHOLD = 0.5
_BATCH = 128


class Probe(NamedTuple):
    """A linear classifier of one subset.

    Attributes:
        weights: float32 [6, width, classes]; zero for channels that pad the subset.
        bias: float32 [classes].
    """

    weights: jax.Array
    bias: jax.Array


class ProbeSums(NamedTuple):
    """Sums over a layer's images, from which every subset's probe follows.

    Attributes:
        fitted_on: over most of them, of standardised pooled numbers, a one, and one-hot labels.
        chosen_on: over the rest, which choose the ridge.
        mean: float32 [6 * C], of pooled numbers before they were standardised.
        scale: float32 [6 * C], what they were multiplied with after that.
    """

    fitted_on: LinearStatistics
    chosen_on: LinearStatistics
    mean: np.ndarray
    scale: np.ndarray


def pool_rows(stored: Any) -> np.ndarray:
    """Returns float32 [N, 6, C]: the six numbers of every channel of stored rows [N, h, w, C]."""
    starts = range(0, len(stored), _BATCH)
    batches = [np.asarray(pooled(stored[start : start + _BATCH])) for start in starts]
    return np.concatenate(batches)


def gather_probe_sums(stored: Any, labels: np.ndarray, num_classes: int) -> ProbeSums:
    """Returns the sums over representations [N, h, w, C] and labels int [N] below `num_classes`.

    Or several labels for each, [N, num_classes] of 0 and 1.
    """
    features = pool_rows(stored).reshape(len(labels), -1)
    mean, scale = features.mean(axis=0), unit_scale(features)
    features = np.pad((features - mean) * scale, ((0, 0), (0, 1)), constant_values=1.0)
    is_one = labels.ndim == 1
    answers = np.eye(num_classes, dtype=np.float32)[labels] if is_one else np.float32(labels)
    fitted = max(1, len(labels) - max(1, round(_HELD_OUT * len(labels))))

    def sums(rows: slice) -> LinearStatistics:
        x, y = features[rows], answers[rows]
        gram, cross = np.float64(x.T @ x), np.float64(x.T @ y)
        return LinearStatistics(gram, cross, float(np.sum(y * y)), len(x))

    return ProbeSums(
        sums(slice(fitted)), sums(slice(min(fitted, len(labels) - 1), None)), mean, scale
    )


def unit_scale(values: np.ndarray) -> np.ndarray:
    """Returns what brings values [N, ...] to unit deviation; 0 for those that never vary.

    A channel that never responds says nothing, and must not blow up on other images.
    """
    deviation = values.std(axis=0)
    return np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)


def fit_probe(
    sums: ProbeSums, positions: Sequence[int], width: int, ridges: Sequence[float] = RIDGES
) -> Probe:
    """Returns the probe of some of a layer's channels, padded to `width`, with the best ridge."""
    channels = len(sums.mean) // _PER_CHANNEL
    with_one = subset_rows(positions, channels, _PER_CHANNEL)
    rows = with_one[:-1]
    parts = (part.restricted(with_one) for part in (sums.fitted_on, sums.chosen_on))
    solution = best_ridge(*parts, ridges)
    weights = solution[:-1] * sums.scale[rows, None]
    bias = solution[-1] - sums.mean[rows] @ weights
    by_channel = weights.reshape(_PER_CHANNEL, len(positions), -1)
    padded = np.pad(by_channel, ((0, 0), (0, width - len(positions)), (0, 0)))
    return Probe(np.float32(padded), np.float32(bias))


@jax.jit
def pooled(released: jax.Array) -> jax.Array:
    """Returns the six numbers of every channel, float32 [N, 6, C] from [N, h, w, C]."""
    x = released.astype(jnp.float32)
    x = jnp.copysign(jnp.log1p(jnp.abs(x)), x)  # as networks take them
    height, width = x.shape[1:3]
    # Halves overlap where a side is odd or 1.
    halves = (x[:, : (height + 1) // 2], x[:, height // 2 :])
    quarters = [
        quarter.mean(axis=(1, 2))
        for half in halves
        for quarter in (half[:, :, : (width + 1) // 2], half[:, :, width // 2 :])
    ]
    return jnp.stack([x.mean(axis=(1, 2)), x.std(axis=(1, 2)), *quarters], axis=1)


def probe_scores(probe: Probe, numbers: jax.Array) -> jax.Array:
    """Returns float32 [N, classes], about each class's probability, from `pooled`'s numbers."""
    products = jnp.einsum(
        "nkd,kdc->nc", numbers, probe.weights, precision=jax.lax.Precision.HIGHEST
    )
    return products + probe.bias
