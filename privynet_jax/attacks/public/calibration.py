"""How strong each channel of a release really is: found together with some of its pictures.

A release's root mean squares are those of pictures that the attacker does not know, some percent
off its own ones', which costs decibels where a representation tells nearly everything. So gains and
a few pictures are sought together: the ones that give the release under the guessed local NN,

    |local(pictures) / gains - release|^2 + a little |coordinates|^2, and gains near 1.

Pictures of more contrast explain a gain that all channels have in common, but for what a network
adds to its products. Pictures are therefore sought relative to that gain: as it rises they stay
where they were right. It is blind calibration (after Balzano and Nowak 2007,
doi:10.1145/1236360.1236364), of a network instead of a linear map.

Estimates of pictures are too faint, and so are the gains that are found from them; nothing but the
ends of the range tells. Pictures that are fainter than the true ones explain the release as well,
ones of more contrast do not: where the true ones are black or white, they would have to leave
[0, 1]. So the common gain is the largest that explains the release as well as smaller ones do.

    found = calibrate(local, prior, release, estimates, steps=150)
    found.gains, found.weights  # [D]
    brightest(matcher, release * found.gains, found, steps=60)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.base import Representing
from privynet_jax.attacks.matching import RANGE_WEIGHT, Matcher, Weights
from privynet_jax.attacks.pixel_prior import PixelPrior, offsets_of
from privynet_jax.errors import DivergedError
from privynet_jax.training.session import current_session

# Of logarithms of gains, how far they usually are from 0.
_DEVIATION = 0.1
# Of the coordinates, squared: enough to keep what no channel tells from growing.
_PRIOR_WEIGHT = 1e-3
# About the input of a network that is trained on photographs where it subtracts their mean.
_MIDDLE = 0.45
# After each stretch, channels that pictures fail to explain weigh less.
_STRETCHES, _MEMORY = 3, 20
# A share of a channel's energy that may always be unexplained.
_LEAST = 0.02
# Steps between logarithms of common gains that are tried beside what was found; how far at least,
# and beyond what the pictures' own root mean square says of all channels, as far as it is right;
# and how much worse than the best of them one may explain the release.
_BRIGHTER, _FURTHEST, _BEYOND = 0.04, 0.12, 0.05
_AS_WELL = 1.1
# Of a release's energy, what no picture explains.
_ROUNDING = 1e-6
# Pixels of the pictures that are sought together, and the fewest of these.
_PIXELS, _LEAST_PICTURES = 2**14, 4
_optimiser = optax.lbfgs(memory_size=_MEMORY)


class Unknowns(NamedTuple):
    """What is sought: coordinates [n, H, W, 3] of pictures, and of gains, [D] and []."""

    pictures: jax.Array
    channels: jax.Array
    common: jax.Array


class _Known(NamedTuple):
    prior: PixelPrior
    release: jax.Array
    starts: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """By what the release's channels are too weak, and how much to trust each, float64 [D].

    And the pictures that were found with them, float32 [n, H, W, 3], and the logarithm of the gain
    that all channels have in common.
    """

    gains: np.ndarray
    weights: np.ndarray
    pictures: np.ndarray
    common: float


def pictures_of(size: int) -> int:
    """Returns how many pictures of a size tell enough of gains."""
    return max(_LEAST_PICTURES, _PIXELS // size**2)


def calibrate(
    local: Representing, prior: PixelPrior, release: np.ndarray, starts: np.ndarray, steps: int
) -> Calibration:
    """Returns gains such that `release * gains` are what the local NN gives of some pictures.

    Of representations float32 [n, h, w, D] and estimates of their pictures float32 [n, H, W, 3],
    around which the prior lies; each of the steps moves all unknowns. Weights, in (0, 1], are 1 but
    for channels of which pictures explain far less than of the usual one.
    """
    depth = release.shape[-1]
    # On one device: sums over several, inside the search along a line, come to a halt on CPU.
    known = _Known(prior, jnp.float32(release), jnp.float32(starts))
    found = Unknowns(jnp.zeros(starts.shape), jnp.zeros(depth), jnp.float32(0))
    take_step, explain = _compiled(local)
    weights = np.ones(depth, np.float32)
    for _ in range(_STRETCHES):
        state = _optimiser.init(found)
        for _ in range(-(-steps // _STRETCHES)):
            found, state = take_step(known, weights, found, state)
            current_session().give_way()
        weights = _weights(np.asarray(explain(known, found)))
    gains = np.exp(np.float64(_log_gains(found)))
    pictures, common = np.asarray(_pictures(known, found)), _DEVIATION * float(found.common)
    return Calibration(gains, np.float64(weights), pictures, common)


def brightest(matcher: Matcher, release: np.ndarray, found: Calibration, steps: int) -> float:
    """Returns by what all channels of a release, float32 [n, h, w, D], are too weak still.

    The pictures found explain it as it is, gains included; `matcher` seeks ones that explain it
    brightened. DivergedError where none are finite.
    """
    # A gain found far below what the pictures' root mean square says may have far to go.
    furthest = max(_FURTHEST, _BEYOND - found.common)
    tried = np.arange(0.0, furthest + _BRIGHTER / 2, _BRIGHTER)
    pictures, factors = found.pictures, np.float32(np.exp(tried))
    count = len(pictures)
    each = np.repeat(factors, count)[:, None, None, None]
    rows = np.tile(np.arange(count), len(factors))
    weights = Weights(*np.zeros((2, len(rows)), np.float32))
    starts = _MIDDLE + each * (pictures[rows] - _MIDDLE)
    losses = matcher(release[rows] * each, starts, weights, steps).losses[-1]
    unexplained = losses.reshape(len(factors), count).sum(axis=1) / factors**2
    unexplained += _ROUNDING * np.sum(release**2)
    if not np.isfinite(unexplained).all():
        raise DivergedError("no pictures that explain the release were found")
    over = np.log(unexplained / (_AS_WELL * unexplained.min()))
    last = int(np.flatnonzero(over <= 0)[-1])
    if last + 1 == len(factors):
        return float(factors[last])
    return float(np.exp(np.interp(0.0, over[last : last + 2], tried[last : last + 2])))


def _compiled(local: Representing) -> tuple[Callable[..., Any], ...]:
    """One step of L-BFGS for all unknowns together, and each channel's unexplained share."""

    def take_step(
        known: _Known, weights: jax.Array, unknowns: Unknowns, state: Any
    ) -> tuple[Unknowns, Any]:
        objective = functools.partial(_loss, local, known, weights)
        value, gradient = optax.value_and_grad_from_state(objective)(unknowns, state=state)
        updates, state = _optimiser.update(
            gradient, state, unknowns, value=value, grad=gradient, value_fn=objective
        )
        return optax.apply_updates(unknowns, updates), state

    def unexplained(known: _Known, unknowns: Unknowns) -> jax.Array:
        missed = _misfit(local, known, unknowns)
        left, all_of_it = (jnp.sum(x * x, axis=(0, 1, 2)) for x in (missed, known.release))
        # Of channels that these pictures leave silent, and of the width's rest, nothing is known.
        return jnp.where(all_of_it > 0, left / all_of_it, jnp.nan)

    return jax.jit(take_step), jax.jit(unexplained)


def _loss(local: Representing, known: _Known, weights: jax.Array, unknowns: Unknowns) -> jax.Array:
    pictures = _pictures(known, unknowns)
    outside = pictures - jnp.clip(pictures, 0.0, 1.0)
    near = jnp.sum(unknowns.channels**2) + unknowns.common**2
    return (
        jnp.sum(weights * _misfit(local, known, unknowns) ** 2)
        + RANGE_WEIGHT * jnp.sum(outside**2)
        + _PRIOR_WEIGHT * jnp.sum(unknowns.pictures**2) / 2
        + near / 2
    )


def _misfit(local: Representing, known: _Known, unknowns: Unknowns) -> jax.Array:
    # Divided, not multiplied on the other side: a weaker release would be missed by less.
    return local(_pictures(known, unknowns)) * jnp.exp(-_log_gains(unknowns)) - known.release


def _pictures(known: _Known, unknowns: Unknowns) -> jax.Array:
    offsets = offsets_of(known.prior, unknowns.pictures)
    return _MIDDLE + jnp.exp(_DEVIATION * unknowns.common) * (known.starts + offsets - _MIDDLE)


def _log_gains(unknowns: Unknowns) -> jax.Array:
    return _DEVIATION * (unknowns.channels + unknowns.common)


def _weights(unexplained: np.ndarray) -> np.ndarray:
    left = np.maximum(unexplained, _LEAST)
    return np.float32(1 / np.fmax(1, left / np.nanmedian(left)))
