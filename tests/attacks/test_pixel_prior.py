"""The Gaussian prior around an estimate, in the coordinates that the optimisation uses."""

import numpy as np
import pytest
import scipy.fft

from privynet_jax.attacks.pixel_prior import PixelPrior, fit_prior, offsets_of, total_variation


def coloured_noise(count, deviations, colours, seed=0):
    spectra = np.random.default_rng(seed).normal(size=(count, *deviations.shape)) * deviations
    return scipy.fft.idctn(spectra, axes=(1, 2), norm="ortho") @ colours.T


def slow_spectrum(height, width):
    """Deviations that fall with frequency, three times as large in the last colour."""
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-(rows + columns) / 12)[..., None] * np.array([0.1, 0.2, 0.6])


def test_the_deviations_are_those_of_the_errors():
    deviations = slow_spectrum(16, 24)
    colours, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    prior = fit_prior(coloured_noise(400, deviations, colours))
    # Up to sign; eigh orders colours by their power, ascending, as they are here.
    np.testing.assert_allclose(np.abs(prior.colours.T @ colours), np.eye(3), atol=0.05)
    # Within what 400 samples and smoothing across the spectrum's edge let one expect.
    inner = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(prior.deviations[inner], deviations[inner], rtol=0.15)


def test_coordinates_of_unit_deviation_are_samples_of_the_prior():
    prior = PixelPrior(np.float32(slow_spectrum(8, 12)), np.eye(3, dtype=np.float32)[:, [2, 0, 1]])
    coordinates = np.random.default_rng(2).normal(size=(5, 8, 12, 3)).astype(np.float32)
    spectra = coordinates * prior.deviations
    expected = scipy.fft.idctn(spectra, axes=(1, 2), norm="ortho") @ prior.colours.T
    np.testing.assert_allclose(offsets_of(prior, coordinates), expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_few_or_no_errors_leave_coordinates_that_can_be_used(count):
    prior = fit_prior(np.zeros((count, 8, 8, 3), np.float32))
    assert prior.deviations.min() > 0
    offsets = offsets_of(prior, np.ones((1, 8, 8, 3), np.float32))
    assert np.isfinite(offsets).all()


def test_total_variation_by_hand():
    image = np.zeros((1, 3, 3, 3), np.float32)
    image[0, 1, 1, 0] = 0.5  # four neighbours, one colour
    # Each of the four differences is rounded by at most a thousandth.
    np.testing.assert_allclose(total_variation(image), [2.0], atol=4e-3)
    np.testing.assert_allclose(total_variation(np.full((2, 4, 4, 3), 0.3, np.float32)), [0, 0])
