"""What noise on a bounded representation guarantees: local differential privacy of one release.

`defences` bounds a representation's norm and adds noise; here is the epsilon that this gives, with
NumPy and SciPy alone.

    laplace_epsilon(bound=100.0, scale=50.0)  # 4.0
    gaussian_epsilon(bound=8.0, sigma=4.0, delta=1e-5)

The statement, for any two images x and y of any two people and any set S of releases:

    P(release(x) in S) <= exp(epsilon) P(release(y) in S) + delta

It is about one release of one image's representation. It does not cover labels, file sizes or how
many images there are; releasing the same image again, or two alike, adds their epsilons up; and it
is a statement about real numbers and perfect randomness, which floating point and a seeded
generator only approximate.
"""

import math

from scipy import optimize, special

# No smaller than the chance that anybody would call negligible for one image in 100,000.
DELTA = 1e-5


def laplace_epsilon(bound: float, scale: float) -> float:
    """Returns epsilon of Laplace noise; delta is 0.

    Args:
        bound: on the L1 norm of the representation. Two of them are at most twice as far apart.
        scale: of the noise added to each value. Zero guarantees nothing: infinity.
    """
    return _ratio(2 * bound, scale)


def gaussian_epsilon(bound: float, sigma: float, delta: float = DELTA) -> float:
    """Returns the least epsilon of Gaussian noise at a delta, exactly, also where it is large.

    The analytic Gaussian mechanism of Balle and Wang (2018, arXiv:1805.06530), solved for epsilon.

    Args:
        bound: on the L2 norm of the representation. Two of them are at most twice as far apart.
        sigma: standard deviation of the noise on each value. Zero guarantees nothing: infinity.
        delta: between 0 and 1.

    Raises:
        ValueError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"Expected delta between 0 and 1, got {delta}.")
    ratio = _ratio(2 * bound, sigma)
    if math.isinf(ratio) or gaussian_delta(0.0, ratio) <= delta:
        return ratio if math.isinf(ratio) else 0.0
    # Here the first of the two terms alone is delta already, so that the root lies below.
    most = ratio**2 / 2 + ratio * special.ndtri(1 - delta)
    found = optimize.brentq(
        lambda epsilon: gaussian_delta(epsilon, ratio) - delta, 0.0, max(most, 0.0) + 1e-9
    )
    return float(found)


def gaussian_delta(epsilon: float, ratio: float) -> float:
    """Returns the least delta of Gaussian noise at an epsilon (theorem 8 of Balle and Wang).

    Args:
        epsilon: at least 0.
        ratio: the most that two representations may be apart in L2, in standard deviations.
    """
    if ratio == 0:
        return 0.0
    half, shift = ratio / 2, epsilon / ratio
    # exp(epsilon) alone overflows where noise is weak; its product does not.
    rest = math.exp(epsilon + special.log_ndtr(-half - shift))
    return float(special.ndtr(half - shift) - rest)


def one_pixel_epsilon(epsilon: float, nullified: float) -> float:
    """Returns epsilon for images that differ in one pixel, where pixels are nullified at random.

    With probability `nullified` the release does not depend on that pixel at all: amplification by
    sampling, which is how Arden's guarantee comes about. It says nothing of whole images: those
    have the `epsilon` that is put in.

    Args:
        epsilon: of the noise, for any two images.
        nullified: probability with which each pixel becomes zero.
    """
    if math.isinf(epsilon) or epsilon > 700:  # beyond it exp overflows, and the 1 does not count
        return epsilon + math.log1p(-nullified) if nullified < 1 else 0.0
    return math.log1p((1 - nullified) * math.expm1(epsilon))


def _ratio(distance: float, noise: float) -> float:
    if distance == 0:
        return 0.0
    return distance / noise if noise > 0 else math.inf
