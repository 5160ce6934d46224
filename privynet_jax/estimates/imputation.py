"""Any subset of a layer's channels -> always the same components, in closed form.

Least squares from the released channels to the principal components of *all* channels turns every
subset into the same inputs, merely known more or less well. That is what lets one network learn
from many subsets at once (`amortised`). Only a C x C covariance is needed.

    components = fit_components(auxiliary_batches, most=64)
    imputation = impute(components, positions=(0, 3, 5), width=8)
    z = imputed(imputation, representations)  # [N, h, w, 64]

Channels enter compressed, as log(1 + x), like those of every network here. Knowing the covariance
of channels that are not released makes this a tool of whoever measures, not an attack.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Relative to the mean variance of the released channels.
RIDGE = 1e-2
# Components with less of the first one's variance are not blown up further.
_LEAST_VARIANCE = 1e-4


class Components(NamedTuple):
    """Principal components of a layer's compressed channels.

    Attributes:
        mean: float64 [C], of each channel.
        covariance: float64 [C, C].
        basis: float64 [C, K], from centred channels to components of about unit variance.
    """

    mean: np.ndarray
    covariance: np.ndarray
    basis: np.ndarray


class Imputation(NamedTuple):
    """A linear map from one subset of channels to all components.

    Attributes:
        positions: int32 [width], where the subset's channels lie; those that pad it are 0.
        kernel: float32 [width, K]; zero for what pads it.
        bias: float32 [K].
        share: float32 [K], the share of each component's variance that the subset explains.
    """

    positions: jax.Array
    kernel: jax.Array
    bias: jax.Array
    share: jax.Array


def fit_components(batches: Iterable[np.ndarray], most: int) -> Components:
    """Returns at most so many components of a layer, from batches of representations."""
    total, products, count = 0.0, 0.0, 0
    for batch in batches:
        values = np.log1p(np.float32(batch)).reshape(-1, batch.shape[-1])
        total = total + values.sum(axis=0, dtype=np.float64)
        products = products + np.float64(values.T @ values)
        count += len(values)
    if not count:
        raise ValueError("Expected at least one batch of representations, got none.")
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1][:most], directions[:, ::-1][:, :most]
    scale = 1 / np.sqrt(np.maximum(variances, _LEAST_VARIANCE * max(variances[0], 1e-30)))
    # The sign of a direction is arbitrary, and may differ between machines.
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return Components(mean, covariance, directions * scale * signs)


def impute(components: Components, positions: Sequence[int], width: int) -> Imputation:
    """Returns the map of one subset, padded to `width` channels."""
    chosen = np.asarray(positions, np.int32)
    covariance = components.covariance[np.ix_(chosen, chosen)]
    ridge = RIDGE * max(np.trace(covariance) / len(chosen), 1e-30)
    cross = components.covariance[chosen] @ components.basis
    kernel = np.linalg.solve(covariance + ridge * np.eye(len(chosen)), cross)
    variance = np.einsum("ck,ck->k", components.basis, components.covariance @ components.basis)
    explained = np.einsum("dk,dk->k", kernel, covariance @ kernel)
    padding = width - len(chosen)
    return Imputation(
        positions=np.pad(chosen, (0, padding)),
        kernel=np.float32(np.pad(kernel, ((0, padding), (0, 0)))),
        bias=np.float32(-components.mean[chosen] @ kernel),
        share=np.float32(explained / np.maximum(variance, 1e-30)),
    )


def imputed(imputation: Imputation, representations: jax.Array) -> jax.Array:
    """Returns components float32 [N, h, w, K] from all channels, float32 [N, h, w, C]."""
    # Of all channels, once for all subsets of the same representations.
    released = jnp.take(jnp.log1p(representations), imputation.positions, axis=-1)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(released, imputation.kernel, precision=highest) + imputation.bias
