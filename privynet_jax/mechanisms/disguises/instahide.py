"""InstaHide: a picture is mixed with public ones, and the sign of every value is drawn.

Huang, Song, Li and Arora (arXiv:2010.02772), across data sets: with values in [-1, 1], what is
released of a picture is s * (w1 x + w2 p2 + ... + wk pk), where public pictures p, weights w of sum
1 and signs s are drawn anew for each. The picture's own weight is the largest. So its label is its
own; mixing several private pictures, whose labels are mixed alike, is not here. There is no secret
but that randomness: whoever knows the public pictures makes as many pairs as he likes. Signs hide
nothing of magnitudes, which is where attacks begin (Carlini et al., arXiv:2011.05315).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import NETWORK, PAIRS, Attack, Knowledge, Pairs
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.undoing import Undone, in_batches, seen_through
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT, Mechanism

# Public pictures to mix with, of those that there are.
_MOST = 2048


@dataclasses.dataclass(frozen=True)
class InstaHide(Mechanism):
    """Mixed with public pictures, with signs drawn.

    Attributes:
        pictures: in each mixture, the private one among them.
        most: largest weight of a picture.
    """

    name: ClassVar[str] = "instahide"
    changes_image: ClassVar[bool] = True
    releases_pictures: ClassVar[bool] = True
    is_random: ClassVar[bool] = True
    pictures: int = 4
    most: float = 0.65

    def __post_init__(self) -> None:
        self._check("pictures", "2 or more", self.pictures >= 2)
        # With less, what the private picture may not have could make another one the largest.
        self._check("most", "0.5 to 1", 0.5 <= self.most <= 1)

    def secret(self, key: jax.Array, public: np.ndarray) -> jax.Array:
        """Returns the public pictures, float32 [P, H, W, 3] in [-1, 1], which everybody knows."""
        return 2 * jnp.asarray(as_float(public[:_MOST])) - 1

    def of_image(self, secret: jax.Array, key: jax.Array, image: jax.Array) -> jax.Array:
        """Mixes, and draws signs; the result lies in [-1, 1]."""
        choosing, weighing, signing = jax.random.split(key, 3)
        chosen = jax.random.randint(choosing, (self.pictures - 1,), 0, len(secret))
        first, others = self._weights(weighing)
        mixed = first * (2 * image - 1) + jnp.tensordot(others, secret[chosen], 1)
        return mixed * jax.random.rademacher(signing, image.shape, mixed.dtype)

    def _weights(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The private picture's, which is the largest and at most `most`, and the others'."""
        drawn = jnp.sort(jax.random.uniform(key, (self.pictures,), minval=1e-3))[::-1]
        drawn /= drawn.sum()
        first = jnp.minimum(drawn[0], self.most)
        return first, drawn[1:] / drawn[1:].sum() * (1 - first)

    def mean_of(self, several: np.ndarray) -> np.ndarray:
        """Of magnitudes: signs are drawn anew in each release."""
        return np.abs(several).mean(axis=0)

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """Networks on magnitudes, of pairs that were seen or that anybody makes."""
        made = Magnitudes(self, NETWORK, "magnitudes of its own")
        return tuple(seen_through(each, network) for each in (Magnitudes(self, PAIRS), made))


@dataclasses.dataclass(frozen=True)
class Magnitudes:
    """Leaves the signs out."""

    mechanism: InstaHide
    knowledge: str
    name: str = "magnitudes"

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Takes the pairs, or where there are none makes its own of its own pictures."""
        if self.knowledge == PAIRS:
            released = np.float32(pairs.representations[:])
        else:
            public = self.mechanism.secret(key, pairs.images[:: pairs.copies])
            of_one = jax.jit(jax.vmap(lambda k, x: self.mechanism.of_image(public, k, x)))
            keys = jax.random.split(key, len(pairs.images))
            images = as_float(pairs.images)
            released = in_batches(
                lambda rows: np.asarray(of_one(keys[rows], images[rows])), np.arange(len(images))
            )
            released = released / PICTURE_UNIT
        return Undone(np.abs, Pairs(np.abs(released), pairs.images, pairs.copies), {})
