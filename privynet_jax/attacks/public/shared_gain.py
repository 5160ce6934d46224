"""The gains of a release, in the light of what calibrating own pictures gets wrong.

The one that all channels share is found by the ends of the range.
Pictures that are fainter than the true ones explain the release as well, ones of more contrast do
not: where the true ones are black or white, they would have to leave [0, 1]. So the gain is at most
the largest that explains the release as well as smaller ones do (`brightest`). Where pictures are
pale, or where a layer tells little of them, that is too much. It is too much for the attacker's own
pictures likewise, of which it knows the truth: by as much it is lowered, and the less it weighs
beside what root mean squares say. Where a release has far more numbers than its pictures, what
larger gains leave unexplained grows as a square, and the gain is found where that begins.

Likewise, how far channels' gains are from each other is believed as far as it is more than own
pictures' are, which are all 1: at deep layers a few pictures tell less of it than root mean squares
of many.

    found = calibrate(local, prior, release, estimates, steps=150)
    gains, doubt = settled_gains(local, prior, release, found, (own, estimates_of_own), steps=150)
"""

import math

import numpy as np

from privynet_jax.attacks.base import Representing, scaled
from privynet_jax.attacks.matching import Matcher, Weights
from privynet_jax.attacks.pixel_prior import PixelPrior
from privynet_jax.attacks.public.calibration import MIDDLE, Calibration, calibrate
from privynet_jax.errors import DivergedError

# Steps between logarithms of common gains that are tried beside what was found; how far at least,
# and beyond what the pictures' own root mean square says of all channels, as far as it is right;
# how often the last step is halved; and how much worse than the best one may explain the release.
_BRIGHTER, _FURTHEST, _BEYOND = 0.04, 0.12, 0.05
_HALVINGS = 3
_AS_WELL = 1.1
# So many times a picture's numbers, or more, tell all of it.
_MANY = 4
# Root mean squares of all channels together are as wrong as of one beside the others, or so much.
_LEAST_SPREAD = 0.02
# Of a release's energy, what no picture explains.
_ROUNDING = 1e-6


def settled_gains(
    local: Representing,
    prior: PixelPrior,
    release: np.ndarray,
    found: Calibration,
    own: tuple[np.ndarray, np.ndarray],
    steps: int,
) -> tuple[np.ndarray, float]:
    """Returns by what channels of a release are too weak, float64 [D], as far as can be told.

    And how far the logarithms are likely to be off, each beside the others, as a deviation.
    Own are representations and estimates of pictures of the attacker's, whose gains are all 1; the
    rest is as of `calibrate`. DivergedError where no pictures explain one of both.
    """
    mine = calibrate(local, prior, *own, steps)
    of_release, of_own = (
        _brightest_log(local, prior, shown, each, steps // 2)
        for shown, each in ((release, found), (own[0], mine))
    )
    common = _weighed(of_release, of_own, found.spread)
    # What was found with an error is drawn towards the mean, after James and Stein (1961).
    of_error = mine.spread**2
    of_gains = max(found.spread**2 - of_error, _LEAST_SPREAD**2)
    told = of_gains / (of_gains + of_error)
    settled = np.exp(common + told * (np.log(found.gains) - found.common))
    return settled, math.sqrt(told * of_error)


def _brightest_log(
    local: Representing, prior: PixelPrior, release: np.ndarray, found: Calibration, steps: int
) -> float:
    """The mean logarithm of gains, with what `brightest` adds."""
    trust = np.float32(np.sqrt(found.weights))
    matcher, relative = Matcher(scaled(local, trust), prior), release * np.float32(found.gains)
    return found.common + math.log(brightest(matcher, relative * trust, found, steps))


def _weighed(of_release: float, of_own: float, spread: float) -> float:
    """A logarithm less what it is off on own pictures, weighed against 0 by variances.

    0 is what root mean squares say, and as far from the truth as gains are from each other.
    """
    variance = max(_LEAST_SPREAD, spread) ** 2
    return (of_release - of_own) * variance / (variance + of_own**2)


def brightest(matcher: Matcher, release: np.ndarray, found: Calibration, steps: int) -> float:
    """Returns by what all channels of a release, float32 [n, h, w, D], are too weak still.

    The pictures found explain it as it is, gains included; `matcher` seeks ones that explain it
    brightened. DivergedError where none are finite.
    """
    # A gain found far below what the pictures' root mean square says may have far to go.
    furthest = max(_FURTHEST, _BEYOND - found.common)
    tried = np.arange(0.0, furthest + _BRIGHTER / 2, _BRIGHTER)
    unexplained = _unexplained(matcher, release, found.pictures, tried, steps)
    # Beyond the ends of the range it grows so fast that nothing between can be read off.
    for _ in range(_HALVINGS):
        last = _last_as_good(unexplained)
        if last + 1 == len(tried):
            break
        between = tried[last : last + 2].mean(keepdims=True)
        more = _unexplained(matcher, release, found.pictures, between, steps)
        tried = np.insert(tried, last + 1, between)
        unexplained = np.insert(unexplained, last + 1, more)
    last = _last_as_good(unexplained)
    beyond, worse = tried[last + 1 :], unexplained[last + 1 :] - unexplained.min()
    channels = np.count_nonzero(release.any(axis=(0, 1, 2)))
    if len(beyond) > 1 and channels * release[0, ..., 0].size >= _MANY * found.pictures[0].size:
        return float(np.exp(_onset(beyond, worse)))
    return float(np.exp(tried[last]))


def _onset(logs: np.ndarray, values: np.ndarray) -> float:
    """Where a square began to grow, 0 at least, of which these are the first values above 0."""
    (first, second), (root, next_root) = logs[:2], np.sqrt(values[:2])
    return max(0.0, first - root * (second - first) / max(next_root - root, _ROUNDING))


def _last_as_good(unexplained: np.ndarray) -> int:
    return int(np.flatnonzero(unexplained <= _AS_WELL * unexplained.min())[-1])


def _unexplained(
    matcher: Matcher, release: np.ndarray, pictures: np.ndarray, logs: np.ndarray, steps: int
) -> np.ndarray:
    """What no pictures explain of a release brightened by each of some logarithms, [factors]."""
    factors, count = np.float32(np.exp(logs)), len(pictures)
    each = np.repeat(factors, count)[:, None, None, None]
    rows = np.tile(np.arange(count), len(factors))
    weights = Weights(*np.zeros((2, len(rows)), np.float32))
    starts = MIDDLE + each * (pictures[rows] - MIDDLE)
    losses = matcher(release[rows] * each, starts, weights, steps).losses[-1]
    unexplained = losses.reshape(len(factors), count).sum(axis=1) / factors**2
    if not np.isfinite(unexplained).all():
        raise DivergedError("no pictures that explain the release were found")
    return unexplained + _ROUNDING * np.sum(release**2)
