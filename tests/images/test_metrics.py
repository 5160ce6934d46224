"""Metrics against scikit-image, on noise and on real patches, and against sums worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, special
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from privynet_jax.images import metrics
from privynet_jax.images.metrics import MAX_PSNR_DB, correct, haarpsi, psnr_db, ssim
from privynet_jax.images.parts import as_float

# scikit-image works in float64 here and the metrics in float32. Their variances are differences of
# means up to 1, so off by about 1e-7, against constants of 9e-4 in SSIM's denominator.
TOLERANCE = 1e-4


def reference_psnr(estimates, images):
    pairs = zip(np.float64(images), np.float64(estimates), strict=True)
    return [peak_signal_noise_ratio(image, guess, data_range=1.0) for image, guess in pairs]


def reference_ssim(estimates, images):
    return [
        structural_similarity(
            image,
            guess,
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for image, guess in zip(np.float64(images), np.float64(estimates), strict=True)
    ]


def assert_metrics_agree(estimates, images):
    found, expected = psnr_db(estimates, images), reference_psnr(estimates, images)
    assert (found.shape, found.dtype) == ((len(images),), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    found, expected = ssim(estimates, images), reference_ssim(estimates, images)
    assert (found.shape, found.dtype) == ((len(images),), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("height_and_width", [(32, 32), (11, 11), (17, 40), (64, 12)])
def test_random_images(height_and_width):
    rng = np.random.default_rng(0)
    images = rng.random((3, *height_and_width, 3), np.float32)
    assert_metrics_agree(rng.random(images.shape, np.float32), images)


@pytest.mark.parametrize("change", ["noise", "blur", "brighter", "inverted", "another image"])
def test_real_images(photo_parts, change):
    images = as_float(photo_parts.test.images[:12])
    noise = np.random.default_rng(1).normal(0, 0.1, images.shape)
    estimates = {
        "noise": np.clip(images + noise, 0, 1),
        "blur": gaussian_filter(images, (0, 2, 2, 0)),
        "brighter": np.minimum(images + 0.2, 1),
        "inverted": 1 - images,
        "another image": images[::-1],
    }
    assert_metrics_agree(np.float32(estimates[change]), images)


def test_each_image_counts_for_itself():
    rng = np.random.default_rng(2)
    images, estimates = rng.random((2, 4, 12, 12, 3), np.float32)
    for metric in (psnr_db, ssim):
        alone = [metric(estimates[i : i + 1], images[i : i + 1])[0] for i in range(4)]
        # XLA may sum batches of other sizes in another order.
        np.testing.assert_allclose(metric(estimates, images), alone, rtol=1e-5)


def test_psnr_by_hand():
    images = np.zeros((2, 1, 1, 3), np.float32)
    estimates = np.array([[0.1, 0.1, 0.1], [1, 0, 0]], np.float32).reshape(images.shape)
    # Mean squared errors 0.01 and 1/3: 20 dB and 10 log10(3) dB.
    np.testing.assert_allclose(psnr_db(estimates, images), [20.0, 4.7712], atol=TOLERANCE)


def test_perfect_images_reach_the_cap_and_no_more():
    images = np.random.default_rng(3).random((2, 16, 16, 3), np.float32)
    np.testing.assert_allclose(psnr_db(images, images), MAX_PSNR_DB, rtol=1e-6)
    # An error of 1e-6 everywhere would be 120 dB.
    black = jnp.zeros_like(images)
    np.testing.assert_allclose(psnr_db(black + 1e-6, black), MAX_PSNR_DB, rtol=1e-6)
    np.testing.assert_allclose(psnr_db(black + 1e-4, black), 80.0, rtol=1e-6)
    np.testing.assert_allclose(ssim(images, images), 1.0, rtol=1e-6)


@pytest.mark.parametrize("metric", [psnr_db, ssim])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((2, 16, 16, 3), (1, 16, 16, 3)),  # would broadcast unnoticed
        ((16, 16, 3), (16, 16, 3)),
        ((2, 3, 16, 16), (2, 3, 16, 16)),
    ],
)
def test_wrong_shapes_are_refused(metric, one, other):
    with pytest.raises(ValueError, match=r"Expected two arrays \[N, H, W, 3\], got \("):
        metric(jnp.zeros(one), jnp.zeros(other))


@pytest.mark.parametrize("height_and_width", [(10, 32), (32, 10)])
def test_images_smaller_than_the_ssim_window_are_refused(height_and_width):
    images = jnp.zeros((1, *height_and_width, 3))
    with pytest.raises(ValueError, match=r"at least 11 pixels, got \(1, "):
        ssim(images, images)


def test_correct():
    logits = jnp.array([[0.1, 0.2, 0.0], [3.0, -1.0, 2.0], [-3.0, -2.0, -1.0]])
    found = correct(logits, jnp.array([1, 2, 2]))
    assert found.dtype == jnp.float32
    assert found.tolist() == [1.0, 0.0, 1.0]


def test_a_diverged_network_is_neither_right_nor_wrong():
    logits = jnp.array([[jnp.nan, 0.2], [jnp.inf, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(correct(logits, jnp.array([0, 0, 0])), [np.nan, np.nan, 1.0])


def pictures_and_distorted(photo_parts, count=6):
    """Photographs' patches beside blurred, noisy, darker, shifted and recoloured ones."""
    images = as_float(photo_parts.test.images[:count])
    blurred = (images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)) / 3
    noise = np.random.default_rng(0).normal(0, 0.1, images.shape).astype(np.float32)
    noisy = np.clip(images + noise, 0, 1)
    return images, [blurred, noisy, 0.5 * images, np.roll(images, 3, axis=1), images[..., ::-1]]


def haarpsi_by_convolutions(estimate, image):
    """One pair, by SciPy's two-dimensional convolutions and loops, in float64."""

    def maps(x):
        yiq = np.tensordot(255 * np.float64(x), np.float64(metrics._YIQ), axes=1)
        means = [signal.convolve2d(yiq[..., c], np.ones((2, 2)) / 4) for c in range(3)]
        y, i, q = (mean[1:, 1:][::2, ::2] for mean in means)
        edges = {}
        for width in (2, 4, 8):
            kernel = np.ones((width, width)) / width
            kernel[width // 2 :] *= -1
            inner = slice(width // 2, width // 2 + len(y))
            for name, each in (("down", kernel), ("across", kernel.T)):
                edges[width, name] = np.abs(signal.convolve2d(y, each)[inner, inner])
        chroma = [np.abs(signal.convolve2d(x, np.ones((2, 2)) / 4)[1:, 1:]) for x in (i, q)]
        return edges, chroma

    (ours, our_chroma), (theirs, their_chroma) = maps(estimate), maps(image)

    def alike(a, b):
        return (2 * a * b + 30) / (a**2 + b**2 + 30)

    weights, found = [], []
    for name in ("down", "across"):
        found.append(sum(alike(ours[w, name], theirs[w, name]) for w in (2, 4)) / 2)
        weights.append(np.maximum(ours[8, name], theirs[8, name]))
    found.append(sum(map(alike, our_chroma, their_chroma)) / 2)
    weights.append(sum(weights) / 2)
    weighed = sum((special.expit(4.2 * f) * w).sum() for f, w in zip(found, weights, strict=True))
    return (special.logit(weighed / sum(w.sum() for w in weights)) / 4.2) ** 2


def test_haarpsi_is_that_of_plain_convolutions(photo_parts):
    images, distorted = pictures_and_distorted(photo_parts)
    for other in distorted:
        expected = [haarpsi_by_convolutions(a, b) for a, b in zip(other, images, strict=True)]
        # Sums of 3 x 256 float32 values, and a logit near 1, which takes digits.
        np.testing.assert_allclose(haarpsi(other, images), expected, atol=1e-4)


def test_haarpsi_agrees_with_piq(photo_parts):
    piq = pytest.importorskip("piq", reason="compares with piq: pip install piq")
    torch = pytest.importorskip("torch")
    images, distorted = pictures_and_distorted(photo_parts)
    for other in distorted:
        tensors = (torch.tensor(x).permute(0, 3, 1, 2).contiguous() for x in (other, images))
        expected = piq.haarpsi(*tensors, reduction="none").numpy()
        np.testing.assert_allclose(haarpsi(other, images), expected, atol=1e-4)


def test_haarpsi_of_equal_and_of_flat_images(photo_parts):
    images, distorted = pictures_and_distorted(photo_parts)
    np.testing.assert_allclose(haarpsi(images, images), 1, atol=1e-5)
    assert all(np.asarray(haarpsi(other, images)).max() < 0.99 for other in distorted)
    flat = np.full((1, 16, 16, 3), 0.5, np.float32)
    np.testing.assert_allclose(haarpsi(flat, flat), 1, atol=1e-5)
    assert np.isfinite(haarpsi(flat, 0 * flat)).all()
