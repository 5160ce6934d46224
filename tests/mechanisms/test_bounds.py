"""Bounds against the least errors there are, where those are known: by hand, or by integration."""

import math

import numpy as np
import pytest
from scipy import integrate, signal, stats

from privynet_jax.mechanisms.bounds import (
    as_db,
    entropy_error,
    gaussian_noise,
    information_limit,
    laplace_noise,
    rate_distortion_error,
    unbiased_error,
    van_trees_error,
)

GRID = np.linspace(-14, 14, 2801)
STEP = GRID[1] - GRID[0]


def density(distribution):
    return distribution.pdf(GRID)


def least_error(prior, noise):
    """Of whoever knows densities on the grid, of a value and of noise, and guesses the mean."""
    released = np.linspace(-28, 28, 1401)
    joint = prior * np.interp(released[:, None] - GRID, GRID, noise, left=0, right=0)
    total = joint.sum(axis=1)
    guess = np.divide(joint @ GRID, total, out=np.zeros_like(total), where=total > 0)
    errors = (joint * np.square(GRID - guess[:, None])).sum()
    return errors / total.sum()


def entropy(values, step=STEP):
    kept = values[values > 0]
    return float(-(kept * np.log(kept)).sum() * step)


# Noise.


@pytest.mark.parametrize(
    ("noise", "distribution"),
    [(gaussian_noise(0.7), stats.norm(0, 0.7)), (laplace_noise(0.7), stats.laplace(0, 0.7))],
)
def test_noise_is_what_its_density_says(noise, distribution):
    def score_squared(x):
        return (distribution.logpdf(x + 1e-6) - distribution.logpdf(x)) ** 2 / 1e-12

    def weighted(x):
        return score_squared(x) * distribution.pdf(x)

    fisher = 2 * integrate.quad(weighted, 1e-5, 20, limit=200)[0]
    assert noise.fisher == pytest.approx(fisher, rel=1e-3)  # a step of 1e-6 off the kink
    assert noise.variance == pytest.approx(distribution.var())
    assert noise.entropy == pytest.approx(distribution.entropy())
    assert gaussian_noise(0.0) is laplace_noise(0.0) is None


def test_the_mean_of_several_has_at_least_the_entropy_that_is_reckoned_with():
    gaussian = gaussian_noise(0.9).averaged(4)
    assert gaussian == pytest.approx(gaussian_noise(0.45))
    one = density(stats.laplace(0, 1))
    both = signal.fftconvolve(one, one) * STEP  # the density of the sum of two
    mean = entropy(both) - math.log(2)
    assert laplace_noise(1.0).averaged(2).entropy < mean < gaussian_entropy_of_variance(1.0)
    assert laplace_noise(1.0).averaged(2)[:2] == pytest.approx((2.0, 1.0))


def gaussian_entropy_of_variance(variance):
    return math.log(2 * math.pi * math.e * variance) / 2


# One value.


def test_of_one_gaussian_value_in_gaussian_noise_all_are_the_least_error_itself():
    variance, slope, sigma = 3.0, 2.0, 1.5
    exact = 1 / (1 / variance + slope**2 / sigma**2)
    noise = gaussian_noise(sigma)
    nats = information_limit(np.array([slope**2 * variance]), 0.0, 1, noise)
    assert nats == pytest.approx(math.log(1 + slope**2 * variance / sigma**2) / 2)
    own = np.array([variance])
    found = [
        van_trees_error(slope**2 * noise.fisher, own, 1),
        rate_distortion_error(nats, own, 1),
        entropy_error(gaussian_entropy_of_variance(variance) - nats, 1),
    ]
    assert found == pytest.approx([exact] * 3)
    prior = density(stats.norm(0, math.sqrt(variance)))
    # The same by integration, of noise in units of the slope.
    assert least_error(prior, density(stats.norm(0, sigma / slope))) == pytest.approx(exact, 1e-4)
    assert unbiased_error(slope**2 * noise.fisher, 1) == pytest.approx((sigma / slope) ** 2)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_of_one_gaussian_value_in_laplace_noise_none_exceeds_the_least_error(scale):
    noise, variance = laplace_noise(scale), np.array([2.0])
    least = least_error(density(stats.norm(0, math.sqrt(2))), density(stats.laplace(0, scale)))
    nats = information_limit(variance, 0.0, 1, noise)
    found = [van_trees_error(noise.fisher, variance, 1), rate_distortion_error(nats, variance, 1)]
    assert max(found) < least
    # Nor are they far below: by Stam's inequality, and by what Laplace noise lacks of entropy.
    assert min(found) > least / 2


def test_a_gaussian_s_bound_is_beaten_where_values_are_not_gaussian_and_the_true_prior_s_is_not():
    """Two narrow peaks: who knows them guesses which one it is, and is hardly ever wrong."""
    width, sigma = 0.2, 0.5
    prior = (density(stats.norm(-1, width)) + density(stats.norm(1, width))) / 2
    least = least_error(prior, density(stats.norm(0, sigma)))
    noise, variance = gaussian_noise(sigma), np.array([1 + width**2])
    slopes = np.gradient(np.log(prior + 1e-300), STEP)
    fisher = float((prior * np.square(slopes)).sum() * STEP)  # the prior's own
    nats = information_limit(variance, 0.0, 1, noise)
    by_rate = rate_distortion_error(nats, variance, 1)
    for error in (van_trees_error(noise.fisher, variance, 1), by_rate):
        assert least < 0.6 * error
    assert van_trees_error(noise.fisher, np.array([1 / fisher]), 1) < least
    assert entropy_error(entropy(prior) - nats, 1) < least


# Several values.


def least_of_linear(matrix, variances, sigma):
    precision = matrix.T @ matrix / sigma**2 + np.diag(1 / variances)
    return float(np.trace(np.linalg.inv(precision)) / len(variances))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_of_gaussian_values_seen_through_a_matrix_none_exceeds_the_least_error(sigma):
    rng = np.random.default_rng(0)
    variances = np.geomspace(2.0, 0.01, 6)
    noise = gaussian_noise(sigma)
    aligned = np.diag(rng.uniform(0.2, 3, 6))
    for matrix in (aligned, rng.normal(size=(6, 6)), rng.normal(size=(3, 6))):
        least = least_of_linear(matrix, variances, sigma)
        information = noise.fisher * np.diag(matrix.T @ matrix)
        found = van_trees_error(information, variances, 6)
        released = matrix @ np.diag(variances) @ matrix.T
        size = len(matrix)
        moments = np.linalg.eigvalsh(released)
        nats = information_limit(moments, 0.0, size, noise)
        exact = np.linalg.slogdet(np.eye(size) + released / sigma**2)[1] / 2
        assert nats == pytest.approx(exact)
        # Along other axes, and with some of them summed up, it is no less.
        own = np.diag(released)
        assert information_limit(own, 0.0, size, noise) >= nats - 1e-9
        assert information_limit(own[:1], own[1:].sum(), size, noise) >= nats - 1e-9
        rate = rate_distortion_error(nats, variances, 6)
        left = sum(map(gaussian_entropy_of_variance, variances)) - nats
        assert entropy_error(left, 6) <= rate * (1 + 1e-9)
        assert max(found, rate) <= least * (1 + 1e-9)
        if matrix is aligned:
            assert found == pytest.approx(least)


def test_water_is_filled_in_by_hand():
    variances = np.array([1.0, 4.0])
    # 16 = (4 / 0.5) * (1 / 0.5): both axes are left with 0.5. At 2 = 4 / 2 the second has no share.
    assert rate_distortion_error(math.log(16) / 2, variances, 2) == pytest.approx(0.5)
    assert rate_distortion_error(math.log(2) / 2, variances, 2) == pytest.approx((2 + 1) / 2)
    assert rate_distortion_error(0.0, variances, 2) == pytest.approx(5 / 2)
    # Axes that do not vary take no share, but count as values.
    assert rate_distortion_error(0.0, np.array([4.0, 0.0]), 4) == pytest.approx(1.0)
    assert van_trees_error(np.zeros(2), np.array([4.0, 0.0]), 4) == pytest.approx(1.0)


def test_an_attacker_without_bias_reaches_its_bound_where_all_directions_are_alike():
    rng = np.random.default_rng(0)
    matrix, sigma = 3 * np.linalg.qr(rng.normal(size=(5, 5)))[0], 0.4
    x = rng.normal(size=(20_000, 5))
    guess = (x @ matrix.T + sigma * rng.normal(size=x.shape)) @ np.linalg.inv(matrix).T
    bound = unbiased_error(np.square(matrix).sum() / sigma**2, 5)
    # 100,000 squares, each of a relative deviation of sqrt(2).
    assert np.square(guess - x).mean() == pytest.approx(bound, rel=4 * math.sqrt(2 / 1e5))
    assert unbiased_error(0.0, 5) == math.inf


def test_errors_in_decibels():
    assert as_db(0.01) == pytest.approx(20.0)
    assert as_db(0.0) == math.inf
