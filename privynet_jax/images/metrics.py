"""Accuracy, and PSNR, SSIM and HaarPSI of each image.

Images are `float32 [N, H, W, 3]` in `[0, 1]` and are compared with peak 1.0; the two arguments of a
metric, reconstructions and the truth, have the same shape, else ValueError is raised. Metrics are
JAX functions, so that they run where the reconstructions are.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

MAX_PSNR_DB = 100.0
SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_K1, _SSIM_K2 = 0.01, 0.03
# Of HaarPSI: what people's ratings were fitted with, and NTSC's colours, of values up to 255.
_HAAR_C, _HAAR_ALPHA = 30.0, 4.2
_YIQ = np.float32([[0.299, 0.5959, 0.2115], [0.587, -0.2746, -0.5227], [0.114, -0.3213, 0.3112]])


def psnr_db(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of each image, in dB, with peak 1.0.

    Returns `float32 [N]`. A perfect image counts as `MAX_PSNR_DB`, so that means stay finite.
    """
    _check_same_images(estimates, images)
    mse = jnp.mean(jnp.square(estimates - images), axis=(1, 2, 3))
    floor = 10.0 ** (-MAX_PSNR_DB / 10.0)
    return -10.0 * jnp.log10(jnp.maximum(mse, floor))


def ssim(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Structural similarity of each image (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    The original's setting: an 11 x 11 Gaussian window of sigma 1.5, population covariances,
    K1 = 0.01, K2 = 0.03, data range 1.0, the mean over channels and all whole windows. That is
    scikit-image's `structural_similarity(..., gaussian_weights=True, use_sample_covariance=False)`.

    Returns `float32 [N]`, at most 1. H and W are at least `SSIM_WINDOW`.
    """
    _check_same_images(estimates, images)
    height, width = images.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"Expected images of at least {SSIM_WINDOW} pixels, got {images.shape}.")
    rows, columns = _window_matrix(height), _window_matrix(width)

    # A separable window as two small matrix products: on CPU a depthwise convolution is far slower.
    def blur(x: jax.Array) -> jax.Array:
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("ph,nhwc,qw->npqc", rows, x, columns, precision=highest)

    mean_x, mean_y = blur(estimates), blur(images)
    variance_x = blur(estimates * estimates) - mean_x * mean_x
    variance_y = blur(images * images) - mean_y * mean_y
    covariance = blur(estimates * images) - mean_x * mean_y
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def haarpsi(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Haar wavelet-based perceptual similarity of each image, after Reisenhofer et al. 2018.

    doi:10.1016/j.image.2017.11.001, for colours: how alike the edges of the
    finest two scales are, where those of the third are strong, and how alike the colours. It
    follows people's ratings of distorted pictures closely, and is no network, least of all the
    attacked one. `piq.haarpsi` gives the same.

    Returns `float32 [N]` in [0, 1], 1 for equal images.
    """
    _check_same_images(estimates, images)
    ours, theirs = (_haar_maps(x) for x in (estimates, images))

    def alike(name: str) -> jax.Array:
        a, b = ours[name], theirs[name]
        return (2 * a * b + _HAAR_C) / (a * a + b * b + _HAAR_C)

    weights = jnp.maximum(ours["coarse"], theirs["coarse"])  # [2, N, h, w], of both directions
    edges = (alike("fine") + alike("middle")) / 2
    colours = alike("colours").mean(axis=0)
    weights = jnp.concatenate([weights, weights.mean(axis=0, keepdims=True)])
    similar = jnp.concatenate([edges, colours[None]])
    # Where there is no edge at all, as in images of one colour, all positions count alike.
    weights = weights + 1e-6
    mean = (jax.nn.sigmoid(_HAAR_ALPHA * similar) * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3))
    # Rounding must not make it more than equal images' 1.
    return jnp.minimum(1.0, (jnp.log(mean / (1 - mean)) / _HAAR_ALPHA) ** 2)


def image_quality(estimates: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the metrics of each image that attackers are trained and chosen by."""
    return {"psnr_db": psnr_db(estimates, images), "ssim": ssim(estimates, images)}


def privacy_loss(estimates: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """Returns all privacy metrics of each image."""
    return image_quality(estimates, images) | {"haarpsi": haarpsi(estimates, images)}


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is the label: `float32 [N]` of 0 and 1, whose mean is accuracy.

    Of several labels for each, [N, L] of 0 and 1, whether each one's logit has its sign, [N, L].
    NaN where a logit is not finite: the network diverged, and has no answer to be right or wrong.
    """
    finite = jnp.isfinite(logits).all(axis=-1)
    if labels.ndim == 2:
        return jnp.where(
            finite[:, None], ((logits >= 0) == (labels > 0)).astype(jnp.float32), jnp.nan
        )
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return jnp.where(finite, right, jnp.nan)


def _haar_maps(images: jax.Array) -> dict[str, jax.Array]:
    """Magnitudes of Haar responses in brightness, of I and of Q, at half the images' size.

    The first are of three scales, and all are [2, N, h, w]: down and across, or I and Q.
    """
    highest = jax.lax.Precision.HIGHEST

    def filtered(x: jax.Array, down: np.ndarray, across: np.ndarray) -> jax.Array:
        return jnp.einsum("ph,...hw,qw->...pq", down, x, across, precision=highest)

    yiq = jnp.einsum("nhwc,cd->dnhw", 255 * images, _YIQ, precision=highest)
    halves = [_box_matrix(size, 2)[::2] / 2 for size in images.shape[1:3]]
    brightness, *colours = filtered(yiq, *halves)
    sides, maps = brightness.shape[-2:], {}
    for name, width in (("fine", 2), ("middle", 4), ("coarse", 8)):
        boxes = [_box_matrix(side, width) for side in sides]
        steps = [_box_matrix(side, width, (1, -1)) for side in sides]
        both = (steps[0], boxes[1]), (boxes[0], steps[1])
        maps[name] = jnp.abs(jnp.stack([filtered(brightness, *each) for each in both])) / width
    means = [_box_matrix(side, 2) / 2 for side in sides]
    return maps | {"colours": jnp.abs(filtered(jnp.stack(colours), *means))}


def _box_matrix(size: int, width: int, signs: tuple[int, int] = (1, 1)) -> np.ndarray:
    """`[size, size]`: row i adds the pixels of a window around pixel i; zeros are beyond the image.

    The window begins `width / 2 - 1` pixels before i; its halves have these signs.
    """
    window = np.repeat(np.float32(signs), width // 2)
    rows = np.zeros((size, size + width), np.float32)
    for i in range(size):
        rows[i, i : i + width] = window
    return rows[:, width // 2 - 1 :][:, :size]


def _window_matrix(size: int) -> jax.Array:
    """`[size - 10, size]`: row i weighs the pixels of the window that starts at pixel i."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights /= math.fsum(weights)
    rows = [np.pad(weights, (i, size - SSIM_WINDOW - i)) for i in range(size - SSIM_WINDOW + 1)]
    return jnp.asarray(np.stack(rows), jnp.float32)


def _check_same_images(estimates: jax.Array, images: jax.Array) -> None:
    if estimates.shape != images.shape or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"Expected two arrays [N, H, W, 3], got {estimates.shape} and {images.shape}."
        )
