"""What a noisy release tells of pictures, measured, and what follows for any attacker's error.

    prior = prior_of(parts.auxiliary.images)
    error_bounds(mechanism, local, parts.auxiliary.images, prior, key)[1].van_trees

Two things are measured of the map from a picture to what noise is added to: its Fisher information,
by derivatives along random directions, and the second moments of its values. Both are means over
the pictures at hand, and the upper ends of their one-sided 95 % intervals are used, so that fewer
pictures make lower bounds. The distribution of pictures is assumed:

* `van_trees` and `rate` take it for Gaussian, with the covariance of the pictures at hand. Of all
  distributions with a covariance the Gaussian has the least Fisher information, and the greatest
  error at a rate: with equal measurements no other gives a higher bound. So who knows more of
  pictures than their covariance may come below, and an attack that does refutes the assumption, if
  no code is wrong. Where the map is linear, of the same axes, and noise Gaussian, the best linear
  attacker already reaches `van_trees`, and each better one beats it.
* `entropy` takes a lossless code's length for the entropy of pictures, which is no more than that:
  this bound, too, may be higher than the truth.
"""

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms import bounds
from privynet_jax.mechanisms.mechanism import Local, Mechanism

# Pictures of each estimate, at most.
_PICTURES = 1024
_BATCH = 16
_LEVEL = 1 / 255
# Of a normal distribution's values 95 % lie below so many deviations.
_ONE_SIDED = 1.645


class Prior(NamedTuple):
    """What stands for the distribution of pictures of d values.

    Attributes:
        axes: float32 [d, k], orthonormal: principal components.
        variances: float64 [k], along them; there is none beside them.
        nats: entropy of a whole picture, of values in [0, 1] with noise of a level's width.
    """

    axes: np.ndarray
    variances: np.ndarray
    nats: float


class Measured(NamedTuple):
    """Means over pictures, float64 [k], and their standard errors."""

    mean: np.ndarray
    error: np.ndarray

    @property
    def most(self) -> np.ndarray:
        """The upper end of each one's one-sided 95 % interval."""
        return self.mean + _ONE_SIDED * self.error


@dataclasses.dataclass(frozen=True)
class ErrorBounds:
    """Mean squared errors per value that no attacker comes below; see `bounds`.

    Attributes:
        unbiased: of attackers without bias, whatever pictures are.
        van_trees: of any attacker of Gaussian pictures, by Fisher information.
        rate: the same by `nats`.
        entropy: of any attacker of pictures with the entropy of the prior, by `nats`.
        nats: that the release, or the mean of several, tells of its picture at most.
    """

    unbiased: float
    van_trees: float
    rate: float
    entropy: float
    nats: float


def prior_of(images: np.ndarray) -> Prior:
    """Returns the prior of pictures uint8 [N, H, W, 3]; of many, 1,024 evenly spaced ones."""
    images = images[_spaced(len(images), _PICTURES)]
    size = math.prod(images.shape[1:])
    nats = size * (coded_bits(images) * math.log(2) + math.log(_LEVEL))
    return Prior(*principal_axes(as_float(images).reshape(len(images), -1)), nats)


def principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns axes float32 [d, k] and variances float64 [k] of rows float [N, d].

    Around their mean; k is the smaller of N - 1 and d. Beside the axes rows do not vary.
    """
    centred = np.float64(rows) - rows.mean(axis=0, dtype=np.float64)
    # By the rows' products: of fewer rows than values, a fraction of the time that an SVD takes.
    squares, weights = np.linalg.eigh(centred @ centred.T)
    kept = min(len(rows) - 1, rows.shape[1])
    axes, _ = np.linalg.qr(centred.T @ weights[:, ::-1][:, :kept])
    return np.float32(axes), squares[::-1][:kept].clip(min=0) / (len(rows) - 1)


def coded_bits(images: np.ndarray) -> float:
    """Returns bits per value of pictures uint8 [N, H, W, 3] side by side, as lossless WebP."""
    across = math.isqrt(len(images))
    rows = images[: len(images) // across * across].reshape(-1, across, *images.shape[1:])
    sheet = np.concatenate(np.concatenate(rows, axis=1), axis=1)
    coded = io.BytesIO()
    Image.fromarray(sheet).save(coded, "WEBP", lossless=True)
    return 8 * len(coded.getvalue()) / sheet.size


def error_bounds(
    mechanism: Mechanism,
    local: Local,
    images: np.ndarray,
    prior: Prior,
    key: jax.Array,
    releases: Sequence[int] = (1,),
) -> dict[int, ErrorBounds]:
    """Returns bounds for who gets the mean of so many releases of a picture.

    `unbiased` and `van_trees` hold for who gets all of them, too. Pictures are uint8 [N, H, W, 3],
    and `local` gives normalised representations of them. What a mechanism does to pictures at
    random, the attacker is told: that makes bounds lower.

    Raises:
        ValueError: the mechanism adds no noise.
    """
    if mechanism.added_noise is None:
        raise ValueError(f"Expected a mechanism that adds noise, got {mechanism}.")
    clean = noiseless(mechanism, local)
    probing, changing = jax.random.split(key)
    fisher, trace = fisher_information(clean, images, prior.axes, probing)
    moments, rest, released = second_moments(clean, images, changing)
    size = math.prod(images.shape[1:])
    found = {}
    for count in releases:
        noise = mechanism.added_noise.averaged(count)
        nats = bounds.information_limit(moments, rest, released, noise)
        # Noise of a level's width, which gives pictures an entropy, is no part of the error.
        entropy = bounds.entropy_error(prior.nats - nats, size) - _LEVEL**2 / 12
        found[count] = ErrorBounds(
            bounds.unbiased_error(noise.fisher * trace, size),
            bounds.van_trees_error(noise.fisher * fisher, prior.variances, size),
            bounds.rate_distortion_error(nats, prior.variances, size),
            max(0.0, entropy),
            nats,
        )
    return found


# Keys [N] and images float32 [N, H, W, 3] -> what noise is added to.
Clean = Callable[[jax.Array, jax.Array], jax.Array]


def noiseless(mechanism: Mechanism, local: Local) -> Clean:
    """Returns the map from pictures to what noise is added to, [N, ...], for keys of pictures."""

    def represent(keys: jax.Array, images: jax.Array) -> jax.Array:
        changed = jax.vmap(functools.partial(mechanism.of_image, None))(keys, images)
        return jax.vmap(mechanism.expected)(local(changed))

    return represent


def fisher_information(
    clean: Clean, images: np.ndarray, axes: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, float]:
    """Returns Fisher information along axes, float64 [k], and its trace, of noise that has 1.

    Mean squares of derivatives along each axis, over pictures, and their sum over all directions:
    upper ends of intervals. From one random combination of directions for each picture: the
    diagonal's estimator of Bekas et al. (2007, doi:10.1016/j.apnum.2007.01.003), and Hutchinson's.
    """
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    @jax.jit
    def probe(keys: jax.Array, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.vmap(functools.partial(jax.random.split, num=3))(keys)
        map_of = functools.partial(clean, own[:, 0])
        along, beside = (_signs(own[:, 1 + i], count) for i, count in enumerate(axes.shape[::-1]))
        # Signs along the axes, and in all directions beside them: of the identity's covariance.
        change = dot(along - dot(beside, axes), axes.T) + beside
        values, back = jax.vjp(map_of, pictures)
        # The derivative of what is linear: tiled local NNs have no forward derivatives.
        _, forth = jax.vjp(lambda y: back(y)[0], values)
        [again] = back(*forth(change.reshape(pictures.shape)))
        again = again.reshape(change.shape)
        return along * dot(again, axes), jnp.sum(change * again, axis=1)

    found = [probe(keys, pictures) for keys, pictures in _batches(images, key)]
    diagonal, traces = (np.concatenate([f[i] for f in found], dtype=np.float64) for i in (0, 1))
    return np.maximum(0.0, _measured(diagonal).most), float(_measured(traces).most)


def second_moments(
    clean: Clean, images: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, float, int]:
    """Returns second moments of clean values along some axes, [k], their rest, and their number.

    Around the mean and along principal axes of half the pictures, of the other half: upper ends of
    intervals.
    """
    run = jax.jit(clean)
    rows = np.concatenate([_rows(run(*batch)) for batch in _batches(images, key)])
    first, second = np.float64(rows[::2]), np.float64(rows[1::2])
    axes, _ = principal_axes(first)
    centred = second - first.mean(axis=0)
    squares = np.square(centred @ np.float64(axes))
    left = np.maximum(0.0, np.square(centred).sum(axis=1) - squares.sum(axis=1))
    return _measured(squares).most, float(_measured(left).most), rows.shape[1]


def _signs(keys: jax.Array, count: int) -> jax.Array:
    """Signs at random, float32 [N, count]."""
    return jax.vmap(lambda key: jax.random.rademacher(key, (count,), jnp.float32))(keys)


def _batches(images: np.ndarray, key: jax.Array) -> list[tuple[jax.Array, np.ndarray]]:
    """Keys and pictures of batches of one size; some pictures are left out."""
    size = min(_BATCH, len(images))
    chosen = _spaced(len(images), min(_PICTURES, len(images)) // size * size)
    keys = jax.random.split(key, len(chosen))
    starts = range(0, len(chosen), size)
    return [(keys[s : s + size], as_float(images[chosen[s : s + size]])) for s in starts]


def _spaced(count: int, chosen: int) -> np.ndarray:
    """So many whole numbers below a count, evenly spaced; no more than there are."""
    chosen = min(count, chosen)
    return np.arange(chosen) * count // chosen


def _rows(x: jax.Array) -> np.ndarray:
    return np.asarray(x).reshape(len(x), -1)


def _measured(values: np.ndarray) -> Measured:
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return Measured(values.mean(axis=0), error)
