"""What no attacker's squared error falls below, of a picture that is released with noise.

    noise = gaussian_noise(0.5)
    van_trees_error(noise.fisher * information, variances, size=3072)  # float [k], of k axes
    rate_distortion_error(nats, variances, size=3072)
    entropy_error(picture_nats - nats, size=3072)

Errors are mean squared errors per value of pictures in [0, 1], in expectation over pictures and
noise: bounds of the mean over pictures, so that they are compared with the PSNR of the mean error
(`as_db`), which is no more than the mean of pictures' PSNRs. Whoever attacks may know mechanism,
network and the distribution of pictures, not the noise.

Each is a theorem about the distribution that it is given, and nobody knows that of pictures:
`information` says what stands for it. All arithmetic is NumPy's in float64.
"""

import math
from typing import NamedTuple

import numpy as np


class Noise(NamedTuple):
    """Noise that is added to each released value, independently.

    Attributes:
        fisher: Fisher information about the value to which it is added.
        variance: its own.
        entropy: at least so many nats, differential.
    """

    fisher: float
    variance: float
    entropy: float

    def averaged(self, releases: int) -> "Noise":
        """Returns what stays in the mean of so many releases.

        Fisher information is of all of them together, which is no less than of their mean; the
        entropy follows from the entropy power inequality, exactly where noise is Gaussian.
        """
        less = math.log(releases) / 2
        return Noise(releases * self.fisher, self.variance / releases, self.entropy - less)


def gaussian_noise(sigma: float) -> Noise | None:
    """Returns Gaussian noise of a standard deviation; None where there is none."""
    if sigma == 0:
        return None
    return Noise(sigma**-2, sigma**2, math.log(2 * math.pi * math.e * sigma**2) / 2)


def laplace_noise(scale: float) -> Noise | None:
    """Returns Laplace noise of a scale; None where there is none."""
    return None if scale == 0 else Noise(scale**-2, 2 * scale**2, 1 + math.log(2 * scale))


def unbiased_error(trace: float, size: int) -> float:
    """Returns the bound for attackers whose mean guess of each picture is that picture.

    Cramér and Rao's, by the mean over pictures of the trace of the Fisher information about all
    `size` values: 1 / dFIL in Maeng et al. (2023, arXiv:2305.04146). It takes no distribution of
    pictures. Whoever guesses what pictures usually look like is biased, and not bound by it.
    """
    return size / trace if trace > 0 else math.inf


def van_trees_error(information: np.ndarray, variances: np.ndarray, size: int) -> float:
    """Returns the bound for any attacker, biased or not, of pictures with independent normal axes.

    Van Trees' inequality (Gill and Levit 1995, doi:10.2307/3318681) along each of some orthonormal
    axes, as if all others were told: an error of at least 1 / (information + 1 / variance), which
    adds up. For linear maps of Gaussian pictures whose information has the same axes it is exact.

    Args:
        information: float [k], the release's Fisher information along each axis, or more than that;
            the mean over pictures.
        variances: float [k], of pictures along them; axes that are left out count as known.
        size: values of a picture.
    """
    return float(np.sum(variances / (1 + information * variances)) / size)


def entropy_error(nats: float, size: int) -> float:
    """Returns the bound by what entropy is left of a picture once its release is known, in nats.

    exp(2 h / size) / (2 pi e), as CEM has it (Xia et al. 2025, arXiv:2503.00383, theorem 1): of all
    errors of one mean square, independent normal ones have the most entropy.
    """
    return math.exp(2 * nats / size) / (2 * math.pi * math.e)


def rate_distortion_error(nats: float, variances: np.ndarray, size: int) -> float:
    """Returns the least error with so much information, in nats, about independent normal axes.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, 2006, theorem 10.3.3).
    A guess tells no more of the picture than the release does, so that no attacker gets below. Of
    the same Gaussian pictures, no less than `entropy_error`: that spreads the error evenly over all
    axes, also over those that vary less.
    """
    ranked = np.sort(variances[variances > 0])[::-1]
    logs = np.cumsum(np.log(ranked))
    counts = np.arange(1, len(ranked) + 1)
    # Where the first k axes have an error of `level` each, the others all of their variance.
    levels = np.exp((logs - 2 * nats) / counts)
    above = ranked >= levels
    if not above.any():
        return float(variances.sum() / size)
    last = int(np.flatnonzero(above)[-1])
    return float((counts[last] * levels[last] + ranked[last + 1 :].sum()) / size)


def information_limit(moments: np.ndarray, rest: float, size: int, noise: Noise) -> float:
    """Returns the most nats that a release of `size` values tells of its picture.

    The released values' entropy less their noise's. The first is no more than that of independent
    normal values with the same second moments, along whatever orthonormal axes.

    Args:
        moments: float [k], second moments around any point, along axes, of what noise is added to.
        rest: their sum along all axes that are left out.
        size: released values, k or more.
        noise: added to each.
    """
    others = size - len(moments)
    logs = np.log(moments + noise.variance).sum()
    logs += others * math.log(rest / others + noise.variance) if others else 0.0
    most = (logs + size * math.log(2 * math.pi * math.e)) / 2
    return max(0.0, float(most - size * noise.entropy))


def as_db(error: float) -> float:
    """Returns a mean squared error as PSNR with peak 1; infinite where there is no error."""
    return -10 * math.log10(error) if error > 0 else math.inf
