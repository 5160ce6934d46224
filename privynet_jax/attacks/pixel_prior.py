"""What an attacker expects of images before it looks at a representation once more.

How far another attack's estimates usually are from the truth, at which spatial frequencies and in
which colours, the attacker sees on images that it owns. That is a Gaussian prior around the
estimate. Its coordinates have unit deviation each, which also makes them far better ones to
optimise in than pixels. `matching` does that.

    prior = fit_prior(as_float(images) - estimates)
    offsets = offsets_of(prior, coordinates)  # what is to be added to an estimate
    total_variation(estimates + offsets)  # [N]
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # finds its own parts when they are used

# Neighbouring frequencies err alike: a few images are enough for a smooth spectrum.
_SMOOTHING = 1.5
# Deviations below a hundredth of a grey level, and of an attack that is never wrong, are not real.
_LEAST_DEVIATION = 1e-2 / 255
# Rounds off the corner of |x| at zero, in units of white; a quarter of a grey level.
_TV_ROUNDING = 1e-3
_HIGHEST = jax.lax.Precision.HIGHEST


class PixelPrior(NamedTuple):
    """Gaussian, diagonal in the cosine transform of three decorrelated colours.

    Attributes:
        deviations: float32 [H, W, 3], of each frequency and colour.
        colours: float32 [3, 3], orthogonal; columns are the colours, as RGB.
    """

    deviations: jax.Array | np.ndarray
    colours: jax.Array | np.ndarray


def fit_prior(errors: np.ndarray) -> PixelPrior:
    """Returns the prior of which these errors, truth minus estimate [N, H, W, 3], are samples.

    They are of images that the estimating attack did not learn from.
    """
    flat = np.float64(errors).reshape(-1, 3)
    _, colours = np.linalg.eigh(flat.T @ flat)
    spectra = scipy.fft.dctn(np.float64(errors) @ colours, axes=(1, 2), norm="ortho")
    power = np.mean(np.square(spectra), axis=0) + _LEAST_DEVIATION**2
    smooth = scipy.ndimage.gaussian_filter(np.log(power), (_SMOOTHING, _SMOOTHING, 0))
    return PixelPrior(np.float32(np.exp(smooth / 2)), np.float32(colours))


def offsets_of(prior: PixelPrior, coordinates: jax.Array) -> jax.Array:
    """Returns offsets of pixels, float32 [N, H, W, 3], of coordinates of the same shape."""
    height, width, _ = coordinates.shape[1:]
    return jnp.einsum(
        "ah,nabc,bw,dc->nhwd",
        _cosines(height),
        coordinates * prior.deviations,
        _cosines(width),
        prior.colours,
        precision=_HIGHEST,
    )


def total_variation(images: jax.Array) -> jax.Array:
    """Returns the sum of absolute differences between neighbouring pixels, float32 [N].

    Of images float32 [N, H, W, 3]; anisotropic, over all colours.
    """

    def total(differences: jax.Array) -> jax.Array:
        rounded = jnp.sqrt(jnp.square(differences) + _TV_ROUNDING**2) - _TV_ROUNDING
        return jnp.sum(rounded, axis=(1, 2, 3))

    return total(jnp.diff(images, axis=1)) + total(jnp.diff(images, axis=2))


def _cosines(size: int) -> np.ndarray:
    """float32 [size, size], orthogonal: row k is the cosine of frequency k."""
    return np.float32(scipy.fft.dct(np.eye(size), axis=0, norm="ortho"))
