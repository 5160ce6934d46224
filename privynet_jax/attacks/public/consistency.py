"""Asks the release itself: what is rebuilt from it must give it again, under the guessed local NN.

Statistics may take one channel for another, most where the attacker's pictures are of another kind.
Images that are rebuilt with the guess tell: run through the layer, its right channels go with those
released as they do for pictures of the attacker's own, and a wrong one does not. What a released
channel goes with instead may be the right one; what goes with none is left out.

    checked = check_guess(channels, release, own, images, layer)
    checked.channels[checked.trusted]
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # finds its own parts when they are used

from privynet_jax.images.parts import as_bytes, as_float
from privynet_jax.training.models import linear_attack

_ROUNDS = 4
# What is unexplained counts as at least this share; so many times as much as usual is not right.
_LEAST, _DOUBT = 0.02, 3.0
_TINY = 1e-12
_FITTED_SHARE = 0.75
_BATCH = 64

# images uint8 [N, H, W, 3] -> all channels of the layer, each of root mean square about 1.
_Layer = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """A guess, int [D], some of it perhaps put right, and whether to use each channel, bool [D]."""

    channels: np.ndarray
    trusted: np.ndarray


def check_guess(
    channels: Sequence[int],
    release: np.ndarray,
    own: np.ndarray,
    images: np.ndarray,
    layer: _Layer,
) -> Checked:
    """Returns a guess put right where the release says so.

    Args:
        channels: the guess, one per released channel.
        release: float32 [n, h, w, D], each channel of root mean square 1.
        own: float32 [N, h, w, C], what `layer` gives of the attacker's own pictures.
        images: uint8 [N, H, W, 3], these.
        layer: gives all channels.
    """
    guess, trusted = np.array(channels), np.ones(len(channels), bool)
    # Of a channel that is silent in what is asked, nothing speaks against the guess.
    silent = ~np.any(release, axis=(0, 1, 2))
    split = min(round(_FITTED_SHARE * len(images)), len(images) - 1)
    for _ in range(_ROUNDS):
        found, usual = _unexplained(guess[trusted], trusted, release, own, images, layer, split)
        relative = found / usual
        of_guess = relative[np.arange(len(guess)), guess]
        heard = trusted & ~silent
        limit = _DOUBT * max(1.0, float(np.median(of_guess[heard])) if heard.any() else 1.0)
        right = (of_guess <= limit) | silent
        if 2 * np.count_nonzero(right) < len(guess):
            break  # too little is left to judge the others by
        put_right, free = guess.copy(), np.setdiff1d(np.arange(len(usual)), guess[right])
        doubted = np.flatnonzero(~right)
        for row, column in zip(
            *scipy.optimize.linear_sum_assignment(found[np.ix_(doubted, free)]), strict=True
        ):
            released, candidate = doubted[row], free[column]
            if relative[released, candidate] <= limit:
                put_right[released], right[released] = candidate, True
        if np.array_equal(put_right, guess) and np.array_equal(right, trusted):
            break
        guess, trusted = put_right, right
    return Checked(guess, trusted)


def unexplained(seen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns which share of each channel's energy no multiple of each other explains, [D, C].

    Of float [N, h, w, D] and [N, h, w, C], float64 in [0, 1].
    """
    x, y = (np.float64(z).reshape(-1, z.shape[-1]) for z in (seen, predicted))
    energies = np.outer(np.square(x).sum(axis=0), np.square(y).sum(axis=0))
    return np.clip(1 - np.square(x.T @ y) / np.maximum(energies, _TINY), 0, 1)


def _unexplained(
    channels: np.ndarray,
    trusted: np.ndarray,
    release: np.ndarray,
    own: np.ndarray,
    images: np.ndarray,
    layer: _Layer,
    split: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What rebuilding in closed form leaves of a release, [D, C], and of own pictures, [C]."""
    chosen = own[..., channels]
    fitted_on, chosen_on = (
        linear_attack.gather_statistics(
            (chosen[start:stop], as_float(images[start:stop]))
            for start, stop in itertools.pairwise([*range(first, last, _BATCH), last])
        )
        for first, last in ((0, split), (split, len(images)))
    )
    attack = linear_attack.fit(fitted_on, chosen_on, range(len(channels)))
    of_release, of_own = (
        layer(as_bytes(linear_attack.reconstruct(attack, x)))
        for x in (release[..., trusted], chosen[split:])
    )
    usual = np.diagonal(unexplained(own[split:], of_own))
    return unexplained(release, of_release), np.maximum(usual, _LEAST)
