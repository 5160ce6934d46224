"""The closed-form attacker: per block of pixels, a ridge regression on 3 x 3 representation pixels.

Nothing is trained. One Gram matrix per layer, over all cached channels, serves every choice of
channels: the normal equations of a subset are a sub-block of it, and so are the equations by which
held-out error picks the ridge. `attacks.closed_form` asks for one attack per topology.

    fitted_on = gather_statistics(most_auxiliary_batches)
    chosen_on = gather_statistics(the_other_auxiliary_batches)
    attack = fit(fitted_on, chosen_on, positions=(0, 3, 5))
    images = reconstruct(attack, representations[..., (0, 3, 5)])

Representations here are float32 and normalised (`extraction`), images float32 in [0, 1].
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.images.depth_and_space import depth_to_space, same_padded, space_to_depth

NEIGHBOURHOOD = 3
# Ridges tried, relative to the mean diagonal of the Gram matrix; held-out error picks one.
RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class LinearAttack(NamedTuple):
    """A linear map from representation to image, in the form of one convolution."""

    kernel: jax.Array  # float32 [3, 3, depth, stride * stride * 3]
    bias: jax.Array  # float32 [stride * stride * 3]


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over positions of neighbourhoods and pixels; subclasses say how they are arranged."""

    gram: np.ndarray  # float64, neighbourhoods (with a one appended) against themselves
    cross: np.ndarray  # float64, the same against pixels of the block
    energy: float  # sum of squared pixels
    count: int  # of positions

    def __add__(self, other: Self) -> Self:
        """Returns the sums over both."""
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(own + theirs for own, theirs in both))


class LinearStatistics(Sums):
    """Sums over all positions of a part, from which any subset's least squares follow.

    `gram` is [9 * C + 1, 9 * C + 1], whose rows run over (row, column, channel) of the
    neighbourhood, with the one last; `cross` is [9 * C + 1, B].
    """

    def restricted(self, rows: np.ndarray) -> "LinearStatistics":
        """Returns the sums for some of the unknowns alone, int [n]."""
        gram, cross = self.gram[np.ix_(rows, rows)], self.cross[rows]
        return LinearStatistics(gram, cross, self.energy, self.count)

    @property
    def num_channels(self) -> int:
        """Channels of the representations that the sums were taken over."""
        return (len(self.gram) - 1) // NEIGHBOURHOOD**2


def gather_statistics(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> LinearStatistics:
    """Sums up the normal equations of a part.

    Batches are representations float32 [N, h, w, C] and images float32 [N, H, W, 3]; H/h is the
    layer's stride. A batch's neighbourhoods take 9 times its representations' space.
    """
    total = None
    for representations, images in batches:
        gram, cross, energy = jax.device_get(_batch_sums(representations, images))
        # Products are float32 for speed; sums over batches are float64, since they grow large.
        count = math.prod(representations.shape[:3])
        sums = LinearStatistics(np.float64(gram), np.float64(cross), float(energy), count)
        total = sums if total is None else total + sums
    if total is None:
        raise ValueError("Expected at least one batch of representations and images, got none.")
    return total


def fit(
    fitted_on: LinearStatistics,
    chosen_on: LinearStatistics,
    positions: Sequence[int],
    ridges: Sequence[float] | None = None,
    *,
    on_both: bool = True,
) -> LinearAttack:
    """Returns the least-squares attack on a subset of the statistics' channels, by `best_ridge`.

    `fitted_on` are sums over most images that the attacker owns, `chosen_on` over the others, held
    out to choose among the ridges; None means `RIDGES`.
    """
    rows = subset_rows(positions, fitted_on.num_channels)
    # Sub-blocks first: the sums of a whole layer may be hundreds of times as large.
    sums = fitted_on.restricted(rows), chosen_on.restricted(rows)
    best = best_ridge(*sums, ridges or RIDGES, on_both=on_both)
    kernel = best[:-1].reshape(NEIGHBOURHOOD, NEIGHBOURHOOD, len(positions), -1)
    return LinearAttack(np.float32(kernel), np.float32(best[-1]))


def reconstruct(attack: LinearAttack, representations: jax.Array) -> jax.Array:
    """Returns image estimates float32 [N, H, W, 3], not clipped, from [N, h, w, depth]."""
    padded, padding = same_padded(representations, margin=NEIGHBOURHOOD // 2)
    blocks = jax.lax.conv_general_dilated(
        padded,
        attack.kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return depth_to_space(blocks + attack.bias, channels=3)


@jax.jit
def _batch_sums(
    representations: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    ones = jnp.ones_like(representations[..., :1])
    neighbourhoods = jnp.concatenate([*windows(representations), ones], axis=-1)
    features = neighbourhoods.reshape(-1, neighbourhoods.shape[-1])
    blocks = space_to_depth(images, images.shape[1] // representations.shape[1])
    blocks = blocks.reshape(-1, blocks.shape[-1])
    highest = jax.lax.Precision.HIGHEST
    gram = jnp.matmul(features.T, features, precision=highest)
    cross = jnp.matmul(features.T, blocks, precision=highest)
    return gram, cross, jnp.sum(jnp.square(blocks))


def windows(x: jax.Array) -> list[jax.Array]:
    """[N, h, w, C] -> nine times the same, moved; zeros outside as a SAME convolution has them."""
    height, width = x.shape[1:3]
    margin = NEIGHBOURHOOD // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifts = np.ndindex(NEIGHBOURHOOD, NEIGHBOURHOOD)
    return [padded[:, i : i + height, j : j + width] for i, j in shifts]


def subset_rows(
    positions: Sequence[int], num_channels: int, per_channel: int = NEIGHBOURHOOD**2
) -> np.ndarray:
    """Returns the unknowns of a subset of channels among those of `LinearStatistics`, int [n]."""
    starts = np.arange(per_channel)[:, None] * num_channels
    rows = (starts + np.asarray(positions)[None, :]).ravel()
    return np.append(rows, per_channel * num_channels)


def best_ridge(
    fitted_on: LinearStatistics,
    chosen_on: LinearStatistics,
    ridges: Sequence[float],
    *,
    on_both: bool = True,
) -> np.ndarray:
    """Returns float64 [unknowns, B]: the ridge that does best on `chosen_on`, solved on both.

    Without `on_both` it is solved on `fitted_on` alone, where something else is judged by the
    others. Ridges are relative to the mean diagonal of the Gram matrix; the last unknown is the
    constant, never penalised.
    """
    ridge = ridges[0]
    if len(ridges) > 1:
        solutions = _solutions(fitted_on, ridges)
        errors = [squared_error(chosen_on, solution) for solution in solutions]
        ridge = ridges[int(np.argmin(errors))]
    return solve(fitted_on + chosen_on if on_both else fitted_on, ridge)


def solve(statistics: Sums, ridge: float) -> np.ndarray:
    """Returns float64 [..., unknowns, B], the solution for one ridge, of sums side by side."""
    gram = statistics.gram
    # Not penalised: the one's coefficient is the mean colour, which costs nothing to know.
    penalised = np.diag(np.arange(gram.shape[-1]) < gram.shape[-1] - 1)
    penalty = ridge * np.mean(np.diagonal(gram, axis1=-2, axis2=-1), axis=-1, keepdims=True)
    return np.linalg.solve(gram + penalty[..., None] * penalised, statistics.cross)


def _solutions(statistics: LinearStatistics, ridges: Sequence[float]) -> list[np.ndarray]:
    """What `solve` gives for each ridge: one eigendecomposition serves them all."""
    gram, cross = statistics.gram, statistics.cross
    # Centring regressors and targets takes the place of a constant that is not penalised.
    count = gram[-1, -1]
    mean, mean_target = gram[-1, :-1] / count, cross[-1] / count
    values, vectors = np.linalg.eigh(gram[:-1, :-1] - count * np.outer(mean, mean))
    projected = vectors.T @ (cross[:-1] - count * np.outer(mean, mean_target))
    solutions = []
    for ridge in ridges:
        penalty = ridge * np.mean(np.diag(gram))
        weights = vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
        solutions.append(np.vstack([weights, mean_target - mean @ weights]))
    return solutions


def squared_error(statistics: Sums, solution: np.ndarray) -> np.ndarray:
    """Returns |Y - XW|^2, [...], from the sums alone: |Y|^2 - 2 <X'Y, W> + <W, X'X W>."""
    explained = solution * (statistics.gram @ solution - 2 * statistics.cross)
    return statistics.energy + explained.sum(axis=(-2, -1))
