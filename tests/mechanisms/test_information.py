"""What is measured of maps whose information is known, and bounds against the least error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.mechanisms import information
from privynet_jax.mechanisms.information import (
    coded_bits,
    error_bounds,
    fisher_information,
    noiseless,
    principal_axes,
    prior_of,
    second_moments,
)
from privynet_jax.mechanisms.noises import Arden, ChannelDropout, GaussianNoise, LaplaceNoise

KEY, SIDE = jax.random.key(3), 4
SIZE = SIDE * SIDE * 3
FREE = GaussianNoise(math.inf, 0.5)


def linear(matrix, offset=100.0):
    """A local NN whose values are far above zero, where ReLUs change nothing."""

    def local(images):
        return (images.reshape(len(images), -1) @ matrix.T + offset).reshape(len(images), 1, 1, -1)

    return local


@pytest.fixture(scope="module")
def pictures():
    """Of smooth random fields, nearly Gaussian, with no two equal variances."""
    rng = np.random.default_rng(0)
    spread = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] * np.geomspace(0.3, 0.01, SIZE)
    values = 0.5 + rng.normal(size=(600, SIZE)) @ spread.T
    return np.uint8(255 * values.clip(0, 1)).reshape(-1, SIDE, SIDE, 3)


def test_information_of_equal_slopes_is_exact(pictures):
    axes = np.eye(SIZE, dtype=np.float32)[:, :20]
    clean = noiseless(FREE, linear(2 * np.eye(SIZE, dtype=np.float32)))
    found, trace = fisher_information(clean, pictures, axes, KEY)
    assert found == pytest.approx(np.full(20, 4.0), rel=1e-4)
    assert trace == pytest.approx(4.0 * SIZE, rel=1e-4)


def test_information_of_a_matrix_is_a_little_more_than_its_own(pictures):
    rng = np.random.default_rng(1)
    matrix = np.float32(rng.normal(size=(30, SIZE)))
    axes = np.float32(np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0][:, :25])
    clean = noiseless(FREE, linear(matrix))
    found, trace = fisher_information(clean, pictures, axes, KEY)
    own = matrix.T @ matrix
    exact = np.diag(axes.T @ own @ axes)
    # The estimator's variance is what stands beside the diagonal; the upper ends are 1.645 of it.
    beside = np.square(axes.T @ own).sum(axis=1) - exact**2
    error = np.sqrt(beside / 592)  # whole batches of 16
    assert ((found - exact) / error).mean() == pytest.approx(1.645, abs=0.8)
    assert (np.abs(found - exact - 1.645 * error) < 5 * error).all()
    assert trace == pytest.approx(np.trace(own), rel=0.05)


def test_pixels_that_turn_black_tell_nothing(pictures):
    clean = noiseless(Arden(math.inf, 1.0, 0.75), linear(np.eye(SIZE, dtype=np.float32)))
    found, trace = fisher_information(clean, pictures, np.eye(SIZE, dtype=np.float32), KEY)
    # 592 pictures with a quarter of their pixels each.
    error = math.sqrt(0.25 * 0.75 / 592)
    assert found.mean() == pytest.approx(0.25 + 1.645 * error, abs=2 * error)
    assert trace == pytest.approx(SIZE / 4, rel=0.1)


def test_second_moments_sum_to_the_variance(pictures):
    clean = noiseless(FREE, linear(3 * np.eye(SIZE, dtype=np.float32)))
    moments, rest, size = second_moments(clean, pictures, KEY)
    total = 9 * (pictures / 255).reshape(len(pictures), -1).var(axis=0).sum()
    assert size == SIZE
    assert total < moments.sum() + rest < 1.3 * total  # upper ends: about 10 % more of 296 pictures


def test_axes_of_fewer_rows_than_values_hold_all_their_variance():
    rows = np.random.default_rng(0).normal(size=(9, 40))
    axes, variances = principal_axes(rows)
    assert axes.shape == (40, 8)
    assert axes.T @ axes == pytest.approx(np.eye(8), abs=1e-5)
    assert variances.sum() == pytest.approx(rows.var(axis=0, ddof=1).sum())
    along = (rows - rows.mean(axis=0)) @ axes
    assert along.var(axis=0, ddof=1) == pytest.approx(variances, rel=1e-4)


def test_lossless_codes_tell_noise_from_nothing():
    rng = np.random.default_rng(0)
    noise = np.uint8(rng.integers(0, 256, (64, 16, 16, 3)))
    assert 7.9 < coded_bits(noise) < 8.2
    assert coded_bits(np.zeros_like(noise)) < 0.1
    # Noise fills [0, 1] evenly: its entropy is that of a uniform distribution, 0.
    assert prior_of(noise).nats / noise[0].size == pytest.approx(0.0, abs=0.15)


@pytest.mark.parametrize("mechanism", [FREE, LaplaceNoise(math.inf, 0.3)], ids=str)
def test_bounds_of_gaussian_pictures_lie_below_the_error_of_the_best_linear_attacker(
    pictures, mechanism
):
    """Which is the least error of all in Gaussian noise, and at least that in any other."""
    matrix = np.float32(np.random.default_rng(2).normal(size=(SIZE, SIZE)) / 4)
    prior = prior_of(pictures)
    covariance = prior.axes @ np.diag(prior.variances) @ prior.axes.T
    bounds = error_bounds(mechanism, linear(matrix), pictures, prior, KEY, (1, 8))
    assert [*bounds] == [1, 8]
    for releases, found in bounds.items():
        variance = mechanism.added_noise.variance / releases
        precision = matrix.T @ matrix / variance + np.linalg.inv(covariance)
        least = np.trace(np.linalg.inv(precision)) / SIZE
        assert found.van_trees < least
        assert found.rate < least
        left = prior.nats - found.nats
        expected = math.exp(2 * left / SIZE) / (2 * math.pi * math.e) - 1 / 255**2 / 12
        assert found.entropy == pytest.approx(expected)
        assert found.van_trees > least / 4
        assert 0 < found.van_trees < prior.variances.sum() / SIZE


def test_much_noise_leaves_the_pictures_variance(pictures):
    much = GaussianNoise(1.0, 1e6)
    matrix = np.eye(SIZE, dtype=np.float32)
    prior = prior_of(pictures)
    found = error_bounds(much, linear(matrix), pictures, prior, KEY)[1]
    assert found.van_trees == pytest.approx(prior.variances.sum() / SIZE, rel=1e-6)
    assert found.rate == pytest.approx(prior.variances.sum() / SIZE, rel=1e-3)
    assert found.nats == pytest.approx(0.0, abs=1e-3)
    assert found.unbiased > 1e6


def test_without_noise_there_is_no_bound(pictures):
    prior = prior_of(pictures)
    for mechanism in (GaussianNoise(1.0, 0.0), ChannelDropout(0.5)):
        with pytest.raises(ValueError, match="adds noise"):
            error_bounds(mechanism, linear(np.eye(SIZE)), pictures, prior, KEY)


def test_few_pictures_are_enough(pictures):
    prior = prior_of(pictures[:5])
    local = linear(np.eye(SIZE, dtype=np.float32))
    found = error_bounds(FREE, local, pictures[:5], prior, KEY)[1]
    assert 0 < found.van_trees <= prior.variances.sum() / SIZE


@pytest.mark.parametrize("mechanism", [GaussianNoise(), FREE, LaplaceNoise()], ids=str)
def test_representations_of_nothing_but_zeros_have_derivatives(pictures, mechanism):
    """As those of a few deep channels, which a ReLU may leave dark."""

    def local(images):
        return jnp.maximum(linear(jnp.eye(SIZE), offset=-100.0)(images), 0.0)

    clean = noiseless(mechanism, local)
    _, trace = fisher_information(clean, pictures, np.eye(SIZE, dtype=np.float32), KEY)
    assert trace == 0.0


def test_numbers_are_of_evenly_spaced_pictures():
    assert list(information._spaced(10, 4)) == [0, 2, 5, 7]
    assert list(information._spaced(3, 5)) == [0, 1, 2]
