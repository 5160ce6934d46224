"""A linear probe of accuracy: ridge regression of labels on pooled representations, closed form.

Nothing is trained. As in `linear`, one Gram matrix per layer serves every choice of channels: a
subset's normal equations are a sub-block. Per channel of the compressed representation there are
six numbers: its mean and spread over the image, and its mean in each quarter.

    pooled = pool_layer(layer)                        # part -> float32 [N, 6 * C]
    sums = probe_sums(pooled["target"], labels, num_classes)
    probe = fit_probe(*sums, positions=(0, 3, 5))
    right = probe_correct(probe, pooled["test"], test_labels)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.features import LayerFeatures
from privynet_jax.linear import LinearStatistics, best_ridge

# Relative to the mean diagonal of the Gram matrix; held-out error picks one.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Share of the target images on which the ridge is chosen.
_HELD_OUT = 0.2
_PER_CHANNEL = 6
_BATCH = 128


class Probe(NamedTuple):
    """A linear classifier of one subset.

    Attributes:
        rows: int [6 * depth], which pooled numbers it reads.
        weights: float32 [6 * depth, classes].
        bias: float32 [classes].
    """

    rows: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


def pool_layer(layer: LayerFeatures) -> dict[str, np.ndarray]:
    """Returns part -> float32 [N, 6 * C]: the six numbers of every channel, channels fastest.

    Each is shifted and scaled to mean 0 and variance 1 over the target part.
    """
    pooled = {}
    for name in ("target", "validation", "test"):
        stored = layer.parts[name]
        starts = range(0, len(stored), _BATCH)
        batches = [np.asarray(_pooled(stored[start : start + _BATCH])) for start in starts]
        pooled[name] = np.concatenate(batches)
    mean, deviation = pooled["target"].mean(axis=0), pooled["target"].std(axis=0)
    # A channel that never responds on the target part says nothing; it must not blow up elsewhere.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    return {name: (values - mean) * scale for name, values in pooled.items()}


def probe_sums(
    pooled: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[LinearStatistics, LinearStatistics]:
    """Returns the sums over most target images, and over the rest, which choose the ridge.

    Args:
        pooled: float32 [N, 6 * C], of the target part.
        labels: int [N].
        num_classes: how many values a label may have.
    """
    features = np.pad(pooled, ((0, 0), (0, 1)), constant_values=1.0)
    answers = np.eye(num_classes, dtype=np.float32)[labels]
    fitted = max(1, len(labels) - max(1, round(_HELD_OUT * len(labels))))

    def sums(rows: slice) -> LinearStatistics:
        x, y = features[rows], answers[rows]
        return LinearStatistics(
            np.float64(x.T @ x), np.float64(x.T @ y), float(np.sum(y * y)), len(x)
        )

    return sums(slice(fitted)), sums(slice(min(fitted, len(labels) - 1), None))


def fit_probe(
    fitted_on: LinearStatistics, chosen_on: LinearStatistics, positions: Sequence[int]
) -> Probe:
    """Returns the probe of a subset of channels, given as indices into the layer's."""
    channels = (len(fitted_on.gram) - 1) // _PER_CHANNEL
    starts = np.arange(_PER_CHANNEL)[:, None] * channels
    rows = (starts + np.asarray(positions)[None, :]).ravel()
    with_one = np.append(rows, _PER_CHANNEL * channels)
    block = (part.restricted(with_one) for part in (fitted_on, chosen_on))
    solution = np.float32(best_ridge(*block, RIDGES))
    return Probe(rows, solution[:-1], solution[-1])


def probe_correct(probe: Probe, pooled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns float32 [N], 1 where the probe is right."""
    scores = pooled[:, probe.rows] @ probe.weights + probe.bias
    return np.float32(scores.argmax(axis=1) == labels)


@jax.jit
def _pooled(x: jax.Array) -> jax.Array:
    """[N, h, w, C] -> [N, 6 * C]."""
    x = jnp.log1p(x.astype(jnp.float32))
    height, width = x.shape[1:3]
    # Halves overlap where a side is odd or 1.
    rows = (x[:, : (height + 1) // 2], x[:, height // 2 :])
    quarters = [
        part.mean(axis=(1, 2))
        for half in rows
        for part in (half[:, :, : (width + 1) // 2], half[:, :, width // 2 :])
    ]
    whole = [x.mean(axis=(1, 2)), x.std(axis=(1, 2))]
    return jnp.concatenate([*whole, *quarters], axis=-1)
