"""The attackers' losses by hand."""

import jax
import numpy as np
import pytest

from privynet_jax.training.losses import LOGARITHMIC, SQUARED


def random_images(count=5):
    rng = np.random.default_rng(0)
    return [np.float32(rng.random((count, 4, 4, 3))) for _ in range(2)]


def test_the_logarithmic_loss_is_psnr_on_another_scale():
    images, estimates = random_images()
    estimates[0] = images[0]
    # An exact image counts as 1e-5 in squared error; ten decibels are one factor of ten.
    errors = np.mean(np.square(estimates - images), axis=(1, 2, 3)) + 1e-5
    psnr = np.mean(-10 * np.log10(errors))
    found = float(LOGARITHMIC.of(estimates, images))
    assert found == pytest.approx(-0.02 * psnr * np.log(10) / 10)


def test_both_pull_equally_at_the_usual_error():
    images = np.full((1, 2, 2, 3), 0.5, np.float32)
    estimates = images + np.float32(np.sqrt(0.02))
    one, other = (jax.grad(loss.of)(estimates, images) for loss in (SQUARED, LOGARITHMIC))
    np.testing.assert_allclose(one, other, rtol=2e-3)


def test_the_error_behind_a_mean_loss():
    images, estimates = random_images()
    errors = np.mean(np.square(estimates - images), axis=(1, 2, 3))
    # All images have as many pixels, so the mean over values is that over images.
    assert SQUARED.error(float(SQUARED.of(estimates, images))) == pytest.approx(errors.mean())
    found = LOGARITHMIC.error(float(LOGARITHMIC.of(estimates, images)))
    assert found == pytest.approx(np.exp(np.mean(np.log(errors + 1e-5))), rel=1e-5)
