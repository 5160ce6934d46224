"""Guessing which layer a release comes from, and which of its channels, from statistics alone.

The attacker knows the network, owns images of its own without any representation, and sees a
release whose channels are secret, rescaled, and in any order. Each released channel is compared
with each of a layer by statistics that no scale changes (`channel_statistics`): first by itself,
then, given the assignment so far, by how it goes with the other released channels. The layer is
the one whose channels fit best.

    layer, guess = guess_layer(statistics_of_release, {3: of_layer_3, 4: of_layer_4})
    guess = guess_channels(statistics_of_release, of_layer_4)
    guess.channels             # (17, 3, 90), in the release's order
    guess.confidence           # [D], the attacker's own estimate of being right
    guess.share_found(truth)   # for whoever measures: the attacker does not know the truth
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # finds its own parts when they are used

from privynet_jax.attacks.public.channel_statistics import ChannelStatistics
from privynet_jax.errors import UserError

# Share of the differences between channels that is counted as noise besides what chunks show:
# released pictures are never quite of the attacker's kind.
_SHIFT = 0.01
# A correlation with a channel that is guessed wrongly must not outweigh all others.
_MOST_DEVIATION = 4.0
_ROUNDS = 20
_BLOCK = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Guess:
    """Which channels a release holds, as an attacker believes.

    Attributes:
        channels: the guess, each channel at most once, in the release's order.
        confidence: float64 [D] in [0, 1], how sure the attacker may be of each.
        ranking: int [D, candidates], all candidates for each released channel, likeliest first.
        misfits: float64 [D], mean squared deviation of each channel's statistics from those of its
            guess, in units of their noise: about 1 where it is right.
    """

    channels: tuple[int, ...]
    confidence: np.ndarray
    ranking: np.ndarray
    misfits: np.ndarray

    def share_found(self, truth: Sequence[int], top: int = 1) -> float:
        """Returns the share of released channels, in the release's order, that are guessed.

        A `top` above 1 asks for the truth among so many likeliest ones. The last ones are not found
        where they are silent, so that nothing of them is released.
        """
        right = np.asarray(truth)[: len(self.channels)]
        found = np.asarray(self.channels) == right
        if top > 1:
            found = np.any(self.ranking[:, :top] == right[:, None], axis=1)
        return float(np.count_nonzero(found) / len(truth))


def guess_layer(
    release: ChannelStatistics,
    layers: Mapping[int, ChannelStatistics],
    known: Mapping[int, np.ndarray] | None = None,
) -> tuple[int, Guess]:
    """Returns the layer that a release most likely comes from, and the guess of its channels.

    Layers, by number, have maps of the release's size; those with fewer channels are left out.
    `known` are misfits, as of `guess_channels`, that are known of each layer besides.
    Misfits are in units of each layer's own noise, so they compare layers; their median does not
    listen to a single channel that is silent on one party's images.

    Raises:
        UserError: no layer has as many channels as the release.
    """
    depth = len(release.rms)
    guesses = {
        number: guess_channels(release, own, known[number] if known else 0.0)
        for number, own in layers.items()
        if len(own.rms) >= depth
    }
    if not guesses:
        widths = ", ".join(f"{len(own.rms)} of {number}" for number, own in layers.items())
        raise UserError(
            f"{depth} released channels; the layers whose maps are as large have {widths}; give "
            "the network that the release comes from"
        )
    best = min(guesses, key=lambda number: float(np.median(guesses[number].misfits)))
    return best, guesses[best]


def guess_channels(
    release: ChannelStatistics, layer: ChannelStatistics, known: np.ndarray | float = 0.0
) -> Guess:
    """Returns the likeliest assignment of released channels to channels of the layer.

    The layer's statistics are of all its channels, on images of the attacker's own, in chunks of as
    many images as the release's. What is known besides of how badly channel i fits c, float [D, C]
    in units of squared deviations of variance one, is added to what statistics say.

    Raises:
        UserError: the release has more channels than the layer, or maps of another size.
    """
    _check(release, layer)
    if len(layer.rms) == 1:  # nothing to guess, nor any difference between channels to guess by
        return Guess((0,), np.ones(1), np.zeros((1, 1), int), np.ones(1))
    alone = _cost_alone(release, layer) + known
    assigned = scipy.optimize.linear_sum_assignment(alone)[1]
    seen = set()
    for _ in range(_ROUNDS):
        cost = alone + _cost_together(release, layer, assigned)
        better = scipy.optimize.linear_sum_assignment(cost)[1]
        if tuple(better) in seen:
            break
        seen.add(tuple(better))
        assigned = better
    depth = len(cost)
    matched = cost[np.arange(depth), assigned]
    # As many squared deviations of variance one as were summed up; more is misfit, not evidence.
    expected = release.unary.shape[-1] + (depth - 1) * len(release.pairwise)
    misfits = matched / expected
    temperature = 2 * max(1.0, float(misfits.mean()))
    confidence = scipy.special.softmax(-cost / temperature, axis=1)[np.arange(depth), assigned]
    ranking = np.argsort(cost, axis=1, kind="stable")
    return Guess(tuple(map(int, assigned)), confidence, ranking, misfits)


def _check(release: ChannelStatistics, layer: ChannelStatistics) -> None:
    if release.unary.shape[-1] != layer.unary.shape[-1]:
        raise UserError(
            "the release's maps and the layer's are not of one size; guess with the release's "
            "number of layers and image size"
        )
    if len(layer.rms) < len(release.rms):
        raise UserError(
            f"{len(release.rms)} released channels; the layer has {len(layer.rms)}; "
            "guess with the release's number of layers"
        )


def _cost_alone(release: ChannelStatistics, layer: ChannelStatistics) -> np.ndarray:
    """float64 [D, C]: squared distance of mean statistics, each direction in units of its noise."""
    theirs, ours = release.unary.mean(axis=0), layer.unary.mean(axis=0)
    # Covariance of a chunk's statistics, pooled over channels.
    deviations = layer.unary - layer.unary.mean(axis=0)
    flat = deviations.reshape(-1, deviations.shape[-1])
    of_chunks = flat.T @ flat / max(1, len(flat) - deviations.shape[1])
    root = _root(of_chunks * (1 / len(layer.unary) + 1 / len(release.unary)), np.cov(ours.T))
    x, y = np.linalg.solve(root, theirs.T).T, np.linalg.solve(root, ours.T).T
    return np.square(x[:, None] - y[None]).sum(axis=-1)


def _cost_together(
    release: ChannelStatistics, layer: ChannelStatistics, assigned: np.ndarray
) -> np.ndarray:
    """float64 [D, C]: how badly channel i's correlations fit c, if all others are as assigned."""
    theirs, ours = _whitened(release, layer)
    depth = len(release.rms)
    cost = np.zeros((depth, len(layer.rms)))
    for start in range(0, depth, _BLOCK):
        others = np.arange(start, min(start + _BLOCK, depth))
        deviation = np.zeros((*cost.shape, len(others)))
        for seen, known in zip(theirs, ours, strict=True):
            # Lagged correlations are not symmetric: each channel is once the one that is moved.
            moved = seen[others].T[:, None] - known[assigned[others]].T[None]
            still = seen[:, None, others] - known[None][..., assigned[others]]
            deviation += (np.square(moved) + np.square(still)) / 2
        capped = np.minimum(deviation, _MOST_DEVIATION * len(theirs))
        capped[others, :, others - start] = 0  # with itself, whatever it is assigned to
        cost += capped.sum(axis=-1)
    return cost


def _whitened(
    release: ChannelStatistics, layer: ChannelStatistics
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of both, [lags, ., .] in units of their noise, which lags share for a pair."""
    within = layer.spread * (1 / len(layer.unary) + 1 / len(release.unary))
    root = _root(within, np.cov(layer.pairwise.reshape(len(within), -1)))
    return tuple(
        np.linalg.solve(root, x.pairwise.reshape(len(within), -1)).reshape(x.pairwise.shape)
        for x in (release, layer)
    )


def _root(within: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Cholesky factor of the noise's covariance, what pictures of another kind add included."""
    size = len(within)
    # Statistics that never vary must not divide by zero; they tell nothing either.
    floor = np.eye(size) * (1e-6 * np.trace(within + between) / size + 1e-12)
    return np.linalg.cholesky(within + _SHIFT * between + floor)
