"""Attacks that need no training: ridge regression on neighbourhoods, and answering the mean image.

    [fitted] = LinearInversion().fit([pairs], [Knowledge(PAIRS)], [jax.random.key(0)])
    fitted.reconstruct(representations)

The mean image is no attack: it is what an attack must beat to have learnt anything at all.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import PAIRS, FittedAttack, Knowledge, Pairs, check_pairs
from privynet_jax.estimates.subsets import linear_statistics
from privynet_jax.platform.devices import at_once
from privynet_jax.training.batches import positions_of, stored_of
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.linear_attack import LinearAttack

LINEAR, MEAN_IMAGE = "linear", "mean image"
# Of representations that are inverted at once.
_INVERTED_BYTES = 2**27
_reconstruct = jax.jit(lambda attack, x: jnp.clip(linear_attack.reconstruct(attack, x), 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class LinearInversion:
    """Ridge regression of each block of pixels on the 3 x 3 representation around it."""

    name: str = LINEAR
    knowledge: str = PAIRS
    least_pairs: ClassVar[int] = 2  # one to fit, one to choose the ridge on

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Solves the normal equations; see `base.Attack.fit`."""
        check_pairs(self.name, scenes, self.least_pairs)
        return [
            FittedAttack(functools.partial(_inverted, attack), {"converged": True})
            for attack in linear_attacks(scenes, on_both=True)
        ]


def _inverted(attack: LinearAttack, representations: np.ndarray) -> np.ndarray:
    total, each = max(1, len(representations)), 4 * math.prod(representations.shape[1:])
    size = at_once(total, each, _INVERTED_BYTES)
    pieces = [
        np.asarray(_reconstruct(attack, np.float32(representations[start : start + size])))
        for start in range(0, total, size)
    ]
    return np.concatenate(pieces)


def linear_attacks(scenes: Sequence[Pairs], *, on_both: bool) -> list[LinearAttack]:
    """Returns the closed-form attack on each topology of one layer, from sums that they share.

    It is solved `on_both`, or not on held-out pairs, where something else is judged by those.
    """
    attacks = []
    for pairs in scenes:
        sharing = [own for own in scenes if _base(own) == _base(pairs)]
        union = np.unique(np.concatenate([positions_of(own.representations) for own in sharing]))
        sums = linear_statistics(
            stored_of(pairs.representations), pairs.images, *pairs.hold_out(), channels=union
        )
        positions = positions_of(pairs.representations)
        attack = linear_attack.fit(*sums, np.searchsorted(union, positions), on_both=on_both)
        # Channels that fill up the width are zero, so any weights would do; zeros are neatest.
        missing = pairs.representations.shape[-1] - len(positions)
        kernel = np.pad(attack.kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
        attacks.append(attack._replace(kernel=kernel))
    return attacks


def _base(pairs: Pairs) -> tuple[int, int]:
    return id(stored_of(pairs.representations)), id(pairs.images)


@dataclasses.dataclass(frozen=True)
class MeanImage:
    """Answers the mean of its images: what anybody reaches who has seen no representation."""

    name: str = MEAN_IMAGE
    knowledge: str = PAIRS

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Averages the images; see `base.Attack.fit`."""
        means = [np.float32(own.images.mean(axis=0, dtype=np.float64) / 255) for own in scenes]
        return [FittedAttack(functools.partial(_repeated, m), {"converged": True}) for m in means]


def _repeated(image: np.ndarray, representations: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (len(representations), *image.shape))
