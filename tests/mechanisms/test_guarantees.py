"""Epsilons against what integration of the definition gives, and against known numbers."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from privynet_jax.mechanisms.guarantees import (
    gaussian_delta,
    gaussian_epsilon,
    laplace_epsilon,
)


def hockey_stick(epsilon, first, second, reach):
    """The definition: the most by which one release exceeds exp(epsilon) times the other."""

    def excess(x):
        return max(0.0, first.pdf(x) - math.exp(epsilon) * second.pdf(x))

    cuts = np.linspace(-reach, reach, 41)
    return integrate.quad(excess, -reach, reach, points=list(cuts[1:-1]), limit=400)[0]


@pytest.mark.parametrize(
    ("epsilon", "distance", "sigma"), [(0.5, 1, 1), (2, 3, 1.5), (1, 2, 4), (6, 3, 1)]
)
def test_the_gaussian_s_delta_is_the_definition_s(epsilon, distance, sigma):
    # Noise is the same in all directions, so that only the one along the difference counts.
    first, second = stats.norm(distance, sigma), stats.norm(0, sigma)
    expected = hockey_stick(epsilon, first, second, reach=12 * sigma)
    assert gaussian_delta(epsilon, distance / sigma) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def theorem_8(epsilon, distance, sigma):
    """Balle and Wang's equation as they print it, by the error function of the C library."""

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    half, shift = distance / (2 * sigma), epsilon * sigma / distance
    return below(half - shift) - math.exp(epsilon) * below(-half - shift)


@pytest.mark.parametrize("delta", [0.3, 1e-5, 1e-17, 1e-40, 1e-200])
@pytest.mark.parametrize(("distance", "sigma"), [(1, 2), (5, 1), (0.03, 0.1), (20, 4)])
def test_epsilon_solves_theorem_8_however_small_delta_is(distance, sigma, delta):
    epsilon = gaussian_epsilon(distance, sigma, delta)
    if epsilon == 0:
        assert theorem_8(0.0, distance, sigma) < delta
    else:
        # Both terms are nearly as large as each other at a small delta: two digits go.
        assert theorem_8(epsilon, distance, sigma) == pytest.approx(delta, rel=1e-9)


@pytest.mark.parametrize("delta", [1e-5, 1e-30])
def test_epsilon_of_hardly_any_noise_is_that_of_the_mean_privacy_loss(delta):
    """Which is half the squared ratio; deviations are of the order of the ratio."""
    for ratio in (1e5, 1e9, 1e14):
        epsilon = gaussian_epsilon(ratio, 1.0, delta)
        assert 0 <= epsilon / (ratio**2 / 2) - 1 < 30 / ratio


@pytest.mark.parametrize(
    ("distance", "sigma", "delta"),
    [(16, 4, 1e-5), (2, 10, 1e-3), (128, 64, 1e-5), (128, 0.5, 1e-5)],
)
def test_epsilon_is_the_least_one_for_its_delta(distance, sigma, delta):
    epsilon = gaussian_epsilon(distance, sigma, delta)
    ratio = distance / sigma
    # In 64 bits, delta at epsilons near 33,000 is known to about 8 digits.
    assert gaussian_delta(epsilon, ratio) == pytest.approx(delta, rel=1e-5)
    assert gaussian_delta(1.01 * epsilon, ratio) < delta < gaussian_delta(0.99 * epsilon, ratio)


def test_epsilon_is_less_than_the_classical_bound_says():
    """sqrt(2 log(1.25 / delta)) * sensitivity / sigma, which holds below 1 alone."""
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) * 2 / 20
    assert 0.6 * classical < gaussian_epsilon(2.0, 20.0) < classical < 1


def test_a_known_calibration():
    """Balle and Wang's algorithm 1 gives 3.7306 at sensitivity 1, epsilon 1, delta 1e-5."""
    assert gaussian_epsilon(1.0, 3.7306, 1e-5) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_laplace_noise_has_no_delta_at_its_epsilon_and_some_below(shift):
    scale = 1.5
    epsilon = laplace_epsilon(shift, scale)
    assert epsilon == pytest.approx(shift / scale)
    pair = stats.laplace(shift, scale), stats.laplace(0, scale)
    assert hockey_stick(epsilon, *pair, reach=60) == pytest.approx(0, abs=1e-12)
    assert hockey_stick(0.9 * epsilon, *pair, reach=60) > 1e-3


def test_without_noise_or_bound_there_is_no_guarantee():
    assert laplace_epsilon(1.0, 0.0) == gaussian_epsilon(1.0, 0.0) == math.inf
    assert laplace_epsilon(math.inf, 1.0) == gaussian_epsilon(math.inf, 1.0) == math.inf


def test_much_noise_hides_all_within_delta():
    assert gaussian_epsilon(1.0, 1e9) == 0
    assert gaussian_delta(3.0, 0.0) == 0
    assert laplace_epsilon(1.0, 1e9) == pytest.approx(1e-9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        gaussian_epsilon(1.0, 1.0, 0.0)
