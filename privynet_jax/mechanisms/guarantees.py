"""What noise on a bounded representation guarantees: local differential privacy of one release.

    laplace_epsilon(distance=200.0, scale=50.0)  # 4.0
    gaussian_epsilon(distance=16.0, sigma=4.0, delta=1e-5)

The statement, for any two images x and y of any two people and any set S of releases:

    P(release(x) in S) <= exp(epsilon) P(release(y) in S) + delta

It is about one release of one image's representation. It does not cover labels, file sizes, how
many images there are, nor scales and a unit that a plan took from its sample; releasing the same
image again, or two alike, adds their epsilons up; and it is a statement about real numbers and
perfect randomness, which floating point and a seeded generator only approximate.
"""

import math

import scipy  # finds its own parts when they are used

# No smaller than the chance that anybody would call negligible for one image in 100,000.
DELTA = 1e-5


def laplace_epsilon(distance: float, scale: float) -> float:
    """Returns epsilon of Laplace noise of a scale, at a delta of 0; without noise infinity.

    The distance is the most that two representations may be apart in the L1 norm.
    """
    if distance == 0:
        return 0.0
    return distance / scale if scale > 0 else math.inf


def gaussian_epsilon(distance: float, sigma: float, delta: float = DELTA) -> float:
    """Returns the least epsilon of Gaussian noise at a delta, exactly, also where it is large.

    The analytic Gaussian mechanism of Balle and Wang (2018, arXiv:1805.06530), solved for epsilon.
    The distance is the most that two representations may be apart in the L2 norm, sigma the noise's
    standard deviation; zero guarantees nothing: infinity. Delta lies between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"Expected delta between 0 and 1, got {delta}.")
    ratio = laplace_epsilon(distance, sigma)  # the distance in standard deviations
    if math.isinf(ratio) or gaussian_delta(0.0, ratio) <= delta:
        return ratio if math.isinf(ratio) else 0.0
    # At -ndtri(delta) the first of the two terms alone is delta, so that the root lies below it.
    # Not ndtri(1 - delta): 1 - delta is 1 for a small delta.
    most = 1.0 - scipy.special.ndtri(delta)
    found = scipy.optimize.brentq(lambda z: _delta(z, ratio) - delta, -ratio / 2, most)
    return float(ratio * (found + ratio / 2))


def gaussian_delta(epsilon: float, ratio: float) -> float:
    """Returns the least delta of Gaussian noise at an epsilon (theorem 8 of Balle and Wang).

    The ratio is the most that two representations may be apart in L2, in standard deviations.
    """
    return 0.0 if ratio == 0 else _delta(epsilon / ratio - ratio / 2, ratio)


def _delta(z: float, ratio: float) -> float:
    """Theorem 8's delta at epsilon = ratio * z + ratio^2 / 2.

    In standard deviations, z is how far epsilon lies above the mean of the privacy loss. Epsilon
    itself, where it is large, has too few digits for that difference.
    """
    # exp(epsilon) * ndtr(-z - ratio), whose factors overflow and underflow; this form does not.
    rest = math.exp(-z * z / 2) * scipy.special.erfcx((z + ratio) / math.sqrt(2)) / 2
    return float(scipy.special.ndtr(-z) - rest)
