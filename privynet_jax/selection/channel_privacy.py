"""What each channel alone gives away: the closed-form attack on one channel at a time.

The attack is `linear_attack`'s, per block of pixels a ridge regression on 3 x 3 pixels of the
representation. Only the sums within channels are taken: those between channels would cost hundreds
of times as much. And only 8 x 8 positions, spread over each image, count.

    first, second = (sums_of_batch(x, images, counted) for counted in (is_first, ~is_first))
    psnr_db = attack_psnr_db(first, second)  # float64 [C]
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.training.models.linear_attack import (
    NEIGHBOURHOOD,
    Sums,
    solve,
    squared_error,
    windows,
)

# Relative to the mean diagonal of the Gram matrix, as in `linear_attack`. Ten unknowns against
# thousands of positions need no more than keeps dead channels solvable.
_RIDGE = 1e-6
_MOST_DB = 100.0
_UNKNOWNS = NEIGHBOURHOOD**2 + 1
_PAIRS = np.tril_indices(_UNKNOWNS)
# Rows, and columns, of a representation that count. Positions of one image are much alike, and ten
# unknowns do not need them all; images do not all fit into caches at the first layers either.
_MOST_PLACES = 8


class ChannelSums(Sums):
    """Sums over positions of some images, for each channel by itself.

    `gram` is [C, 10, 10], of a channel's 3 x 3 neighbourhoods, row by row, and a one; `cross` is
    [C, 10, B].
    """

    @property
    def rms(self) -> np.ndarray:
        """Root mean square of each channel, float64 [C]."""
        centre = NEIGHBOURHOOD**2 // 2
        return np.sqrt(self.gram[:, centre, centre] / self.count)

    def scaled(self, scales: np.ndarray) -> "ChannelSums":
        """Returns the sums of channels that are multiplied by scales, float [C]."""
        factors = np.ones((*self.gram.shape[:2], 1))
        factors[:, :-1, 0] = scales[:, None]
        gram = self.gram * factors * factors.mT
        return ChannelSums(gram, self.cross * factors, self.energy, self.count)


def sums_of_batch(
    representations: jax.Array, images: np.ndarray, counted: np.ndarray
) -> ChannelSums:
    """Returns the sums over the images of a batch, float32 [N, H, W, 3], that count, bool [N].

    Of the representations, float32 [M, h, w, C], rows beyond N do not count. The images' sides are
    h and w times the layer's stride, and maybe pixels that pooling dropped.
    """
    missing = len(representations) - len(images)
    filled = np.pad(images, ((0, missing), *[(0, 0)] * 3))
    counted = np.pad(np.float32(counted), (0, missing))
    pairs, cross, energy = jax.device_get(_sums(representations, filled, counted))
    gram = np.empty((len(cross), _UNKNOWNS, _UNKNOWNS))
    gram[:, *_PAIRS] = gram[:, *_PAIRS[::-1]] = pairs.T
    # The last entry is the one against itself, so it counts the positions.
    return ChannelSums(gram, np.float64(cross), float(energy), round(gram[0, -1, -1]))


def attack_psnr_db(first: ChannelSums, second: ChannelSums) -> np.ndarray:
    """Returns float64 [C], how well attacks on one channel each rebuild images they never saw.

    Each half of a sample, whose sums of normalised channels are given, attacks the other half. The
    number is the PSNR of the mean squared error of all pixels, peak 1.0, estimates not clipped, at
    most 100 dB: lower than the mean of images' own PSNR. Channels are only compared by it.
    """
    halves = (first, second), (second, first)
    errors = sum(squared_error(held, solve(fitted, _RIDGE)) for fitted, held in halves)
    pixels = (first.count + second.count) * first.cross.shape[-1]
    return -10 * np.log10(np.maximum(errors / pixels, 10 ** (-_MOST_DB / 10)))


@jax.jit
def _sums(
    representations: jax.Array, images: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    height, width, channels = representations.shape[1:]
    stride = images.shape[1] // height
    counts = counted[:, None, None, None]
    blocks = space_to_depth(images[:, : height * stride, : width * stride], stride) * counts
    blocks = blocks[:, _places(height), _places(width)]
    ones = jnp.ones((*blocks.shape[:3], channels), jnp.float32)
    seen = [own[:, _places(height), _places(width)] for own in windows(representations)]
    x = [window * counts for window in [*seen, ones]]
    # One sum per pair: as a product of matrices per channel, XLA's CPU backend takes ten times as
    # long, and products between channels would be computed in vain.
    pairs = [jnp.sum(x[i] * x[j], axis=(0, 1, 2)) for i, j in zip(*_PAIRS, strict=True)]
    rows = jnp.stack(x, axis=-2).reshape(-1, len(x) * channels)
    cross = jnp.matmul(
        rows.T, blocks.reshape(len(rows), -1), precision=jax.lax.Precision.HIGHEST
    ).reshape(len(x), channels, -1)
    return jnp.stack(pairs), jnp.moveaxis(cross, 1, 0), jnp.sum(jnp.square(blocks))


def _places(size: int) -> slice:
    """At most `_MOST_PLACES` of so many rows or columns, evenly spread."""
    step = math.ceil(size / _MOST_PLACES)
    return slice(step // 2, None, step)
