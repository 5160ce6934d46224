"""What each channel of a layer looks like, whatever it is multiplied by: statistics to know it by.

A release hides which channels it holds and how strong they were, but not how often a channel is
zero, how far its tail reaches, how it varies over an image, or how it goes with the others.
`guessing` compares those of a release with those of the whole layer.

    found = channel_statistics(chunks_of(representations, images_per_chunk=32))
    found.unary.shape     # [chunks, C, statistics]
    found.pairwise.shape  # [lags, C, C]

How statistics differ from chunk to chunk of images tells how far each can be trusted.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.errors import UserError

IMAGES_PER_CHUNK = 32
# Values of a chunk; at most so many are looked at together, however large the images are.
_MOST_VALUES = 2**25
# Of values over their root mean square: which share exceeds each.
_THRESHOLDS = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0)
_MOMENTS = (1, 3, 4)
# Rows and columns by which a channel is compared with another, or itself, next to it.
_LAGS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
_TINY = 1e-6
_HIGHEST = jax.lax.Precision.HIGHEST  # GPUs and TPUs would multiply with fewer bits


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Scale-free statistics of some channels, over one set of images.

    Attributes:
        rms: float64 [C], root mean square of each channel: the one number that is not scale-free.
        unary: float64 [chunks, C, S], of each channel by itself: shares above thresholds, moments,
            variance between images, mean map, spatial autocorrelations.
        pairwise: float64 [lags + 1, C, C], means over chunks of correlations between channels, the
            second one moved by a lag; last between means over whole images.
        spread: float64 [lags + 1, lags + 1], covariance of a pair's correlations from chunk to
            chunk, pooled over all pairs.
    """

    rms: np.ndarray
    unary: np.ndarray
    pairwise: np.ndarray
    spread: np.ndarray


def chunk_size(images: int, shape: tuple[int, int, int]) -> int:
    """Returns how many images make a chunk: of so many, whose maps have the larger set's shape."""
    return max(1, min(IMAGES_PER_CHUNK, images, _MOST_VALUES // int(np.prod(shape))))


def chunks_of(representations: np.ndarray, images_per_chunk: int) -> Iterator[np.ndarray]:
    """Yields whole chunks of representations [N, h, w, C]; images left over are not used."""
    whole = len(representations) // images_per_chunk * images_per_chunk
    for start in range(0, whole, images_per_chunk):
        yield representations[start : start + images_per_chunk]


def channel_statistics(chunks: Iterable[np.ndarray]) -> ChannelStatistics:
    """Returns the statistics of channels over chunks of representations [n, h, w, C], not negative.

    Raises:
        UserError: there is no chunk, or a value is not finite.
    """
    unary, squares = [], []
    total = squared = 0.0
    for chunk in chunks:
        mean_square, alone, pairwise = jax.device_get(_of_chunk(jnp.asarray(chunk)))
        squares.append(np.float64(mean_square))
        unary.append(np.float64(alone))
        total = total + np.float64(pairwise)
        squared = squared + _products(pairwise)
    if not unary or not np.isfinite(unary).all():
        raise UserError(
            "representations without images or with values that are not finite; allowed are "
            "finite values of at least one image; check where they come from"
        )
    count = len(unary)
    mean = total / count
    spread = (squared - count * _products(mean)) / max(1, count - 1)
    rms = np.sqrt(np.mean(squares, axis=0))
    return ChannelStatistics(rms, np.stack(unary), mean, spread)


def _products(pairwise: np.ndarray) -> np.ndarray:
    """[lags, C, C] -> means over pairs of products between lags, float64 [lags, lags]."""
    flat = np.float64(pairwise).reshape(len(pairwise), -1)
    return flat @ flat.T / flat.shape[1]


@jax.jit
def _of_chunk(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean squares [C] of [n, h, w, C], and statistics [C, S] and [lags + 1, C, C]."""
    x = x.astype(jnp.float32)
    everywhere = (0, 1, 2)
    mean_square = jnp.mean(jnp.square(x), axis=everywhere)
    x = x / jnp.maximum(jnp.sqrt(mean_square), _TINY)
    shares = jnp.stack([jnp.mean(x > t, axis=everywhere) for t in _THRESHOLDS], axis=-1)
    moments = jnp.stack([jnp.mean(x**power, axis=everywhere) for power in _MOMENTS], axis=-1)
    # Tails would decide correlations alone; their logarithm is as scale-free, given the division.
    flat = _standardised(jnp.log1p(x))
    of_images = jnp.mean(flat, axis=(1, 2))
    pairwise = _correlations(flat, of_images)
    lagged = jnp.diagonal(pairwise[1:-1], axis1=1, axis2=2).T
    unary = [
        jnp.arcsin(jnp.sqrt(shares)),  # by which shares vary alike, whether rare or frequent
        jnp.log(moments + _TINY),
        jnp.log(jnp.mean(jnp.square(of_images), axis=0) + _TINY)[:, None],
        _mean_map(flat),
        jnp.arctanh(jnp.clip(lagged, -0.999, 0.999)),
    ]
    return mean_square, jnp.concatenate(unary, axis=-1), pairwise


def _standardised(x: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 per channel; a constant one becomes zero."""
    x = x - jnp.mean(x, axis=(0, 1, 2))
    return x / jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(x), axis=(0, 1, 2))), _TINY)


def _correlations(x: jax.Array, of_images: jax.Array) -> jax.Array:
    """[n, h, w, C] and [n, C] -> [lags + 1, C, C]."""
    height, width, channels = x.shape[1:]
    found = []
    for down, right in _LAGS:
        if down < height and abs(right) < width:
            here = x[:, : height - down, max(0, -right) : width - max(0, right)]
            there = x[:, down:, max(0, right) : width - max(0, -right)]
            found.append(_product(here.reshape(-1, channels), there.reshape(-1, channels)))
    found.append(_product(of_images, of_images))
    return jnp.stack(found)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x.T, y, precision=_HIGHEST) / len(x)


def _mean_map(x: jax.Array) -> jax.Array:
    """[n, h, w, C] -> means [C, fields]: borders, where padding tells, and two halves between."""
    rows, columns = (jnp.asarray(_fields(size)) for size in x.shape[1:3])
    fields = jnp.einsum("ih,nhwc,jw->cij", rows, x, columns, precision=_HIGHEST)
    return fields.reshape(x.shape[-1], -1) / len(x)


def _fields(size: int) -> np.ndarray:
    """float32 [fields, size], each row a mean over rows, or columns, of a map."""
    if size < 4:
        return np.eye(size, dtype=np.float32)
    ends = (0, 1, size // 2, size - 1, size)
    fields = np.zeros((4, size), np.float32)
    for field, start, end in zip(fields, ends[:-1], ends[1:], strict=True):
        field[start:end] = 1 / (end - start)
    return fields
