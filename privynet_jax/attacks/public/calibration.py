"""How strong each channel of a release really is: found together with some of its pictures.

A release's root mean squares are those of pictures that the attacker does not know, some percent
off its own ones', which costs decibels where a representation tells nearly everything. So gains and
a few pictures are sought together: the ones that give the release under the guessed local NN,

    |local(pictures) / gains - release|^2 + a little |coordinates|^2.

Of given pictures the best gains are known, channel by channel, so pictures alone are searched for,
by a loss in which gains always fit (variable projection, after Golub and Pereyra 1973,
doi:10.1137/0710036). Pictures of more contrast explain a gain that all channels have in common, but
for what a network adds to its products, so contrast is one more coordinate. It is blind calibration
(after Balzano and Nowak 2007, doi:10.1145/1236360.1236364), of a network instead of a linear map.

Of the gain that all channels share, that says little: see `shared_gain`.

    found = calibrate(local, prior, release, estimates, steps=150)
    found.gains, found.weights  # [D]
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.base import Representing, as_partial
from privynet_jax.attacks.matching import RANGE_WEIGHT
from privynet_jax.attacks.pixel_prior import PixelPrior, offsets_of
from privynet_jax.platform.devices import data_parallel
from privynet_jax.training.session import current_session

# How far gains usually are from the one that all share, and the logarithm of a contrast from 0.
_DEVIATION = 0.1
# Of the coordinates, squared: enough to keep what no channel tells from growing.
_PRIOR_WEIGHT = 1e-3
# About the input of a network that is trained on photographs where it subtracts their mean.
MIDDLE = 0.45
# After each stretch, channels that pictures fail to explain weigh less.
_STRETCHES, _MEMORY = 3, 20
# What silent channels weigh beside others.
_TINY = 1e-9
# A share of a channel's energy that may always be unexplained.
_LEAST = 0.02
# Pixels of the pictures that are sought together, and the fewest of these.
_PIXELS, _LEAST_PICTURES = 2**14, 4
_optimiser = optax.lbfgs(memory_size=_MEMORY)


class Unknowns(NamedTuple):
    """What is sought: coordinates of pictures, [n, H, W, 3], and of their contrast, []."""

    pictures: jax.Array
    contrast: jax.Array


class _Known(NamedTuple):
    prior: PixelPrior
    release: jax.Array
    starts: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """By what the release's channels are too weak, and how much to trust each, float64 [D].

    And the pictures that were found with them, float32 [n, H, W, 3], and of the logarithms of gains
    of channels that are not silent the mean and the standard deviation, by these weights.
    """

    gains: np.ndarray
    weights: np.ndarray
    pictures: np.ndarray
    common: float
    spread: float


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
    # On one device: sums over several, inside the search along a line, come to a halt on CPU.
    _, alone = data_parallel(dividing=1)
    known = _Known(prior, jnp.float32(release), jnp.float32(starts))
    local = jax.device_put(as_partial(local), alone)
    found = Unknowns(jnp.zeros(starts.shape), jnp.float32(0))
    take_step, explain = _compiled(jax.tree.structure(local))
    weights = np.ones(release.shape[-1], np.float32)
    for _ in range(_STRETCHES):
        state = _optimiser.init(found)
        for _ in range(-(-steps // _STRETCHES)):
            found, state = take_step(local, known, weights, found, state)
            current_session().give_way()
        unexplained, factors = map(np.asarray, explain(local, known, weights, found))
        weights = _weights(unexplained)
    gains, heard = 1 / np.float64(factors), np.isfinite(unexplained)
    logs, trust = np.log(gains), np.where(heard, weights, _TINY)
    pictures = np.asarray(_pictures(known, found))
    common = np.average(logs, weights=trust)
    spread = np.average((logs - common) ** 2, weights=trust) ** 0.5
    return Calibration(gains, np.float64(weights), pictures, float(common), float(spread))


@functools.lru_cache(maxsize=1)  # as many as a release and own pictures take
def _compiled(structure: Any) -> tuple[Callable[..., Any], ...]:
    """One step of L-BFGS for all unknowns; channels' unexplained shares and factors."""
    del structure  # new functions for each, with which their programs go

    def take_step(
        local: Representing, known: _Known, weights: jax.Array, unknowns: Unknowns, state: Any
    ) -> tuple[Unknowns, Any]:
        objective = functools.partial(_loss, local, known, weights)
        value, gradient = optax.value_and_grad_from_state(objective)(unknowns, state=state)
        updates, state = _optimiser.update(
            gradient, state, unknowns, value=value, grad=gradient, value_fn=objective
        )
        return optax.apply_updates(unknowns, updates), state

    def explain(
        local: Representing, known: _Known, weights: jax.Array, unknowns: Unknowns
    ) -> tuple[jax.Array, ...]:
        missed, factors = _missed(local, known, weights, unknowns)
        left, all_of_it = _energy(missed), _energy(known.release)
        # Of channels that these pictures leave silent, and of the width's rest, nothing is known.
        # Of one that is nearly so, what is left is held against what it usually has.
        usual = jnp.maximum(all_of_it, _LEAST * known.release[..., 0].size)
        return jnp.where(all_of_it > 0, left / usual, jnp.nan), factors

    return jax.jit(take_step), jax.jit(explain)


def _loss(local: Representing, known: _Known, weights: jax.Array, unknowns: Unknowns) -> jax.Array:
    pictures = _pictures(known, unknowns)
    outside = pictures - jnp.clip(pictures, 0.0, 1.0)
    missed, _ = _missed(local, known, weights, unknowns)
    return (
        jnp.sum(weights * missed**2)
        + RANGE_WEIGHT * jnp.sum(outside**2)
        + _PRIOR_WEIGHT * jnp.sum(unknowns.pictures**2) / 2
        + unknowns.contrast**2 / 2
    )


def _missed(
    local: Representing, known: _Known, weights: jax.Array, unknowns: Unknowns
) -> tuple[jax.Array, jax.Array]:
    """What pictures give too much, [n, h, w, D], and the factors that were put on it, [D].

    They are those of least squares, and each as near to the one that all would share as if so many
    numbers of variance 1 said so.
    """
    given, numbers = local(_pictures(known, unknowns)), 1 / (2 * _DEVIATION**2)
    # A channel of noise may point away from what any picture gives; no gain is negative.
    alike = weights * jnp.maximum(jnp.sum(given * known.release, axis=(0, 1, 2)), 0)
    # That one is silent says nothing of its gain, and something of the pictures.
    energy = jnp.where(_energy(known.release) > 0, weights * _energy(given), 0)
    shared = (jnp.sum(alike) + numbers) / (jnp.sum(energy) + numbers)
    factors = (alike + numbers * shared) / (energy + numbers)
    # On what pictures give, not divided on the other side: a weaker release is not missed by less.
    return factors * given - known.release, factors


def _energy(x: jax.Array) -> jax.Array:
    return jnp.sum(x * x, axis=(0, 1, 2))


def _pictures(known: _Known, unknowns: Unknowns) -> jax.Array:
    offsets = offsets_of(known.prior, unknowns.pictures)
    contrast = jnp.exp(_DEVIATION * unknowns.contrast)
    return MIDDLE + contrast * (known.starts + offsets - MIDDLE)


def _weights(unexplained: np.ndarray) -> np.ndarray:
    left = np.maximum(unexplained, _LEAST)
    return np.float32(1 / np.fmax(1, left / np.nanmedian(left)))
