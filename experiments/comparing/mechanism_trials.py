"""What a mechanism is worth: a cloud NN and attackers that are all trained on what is released.

The cloud NN of `compare_mechanisms` learns from the one release of the target images; attackers,
who know the mechanism with its parameters, from what they have of their own.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.comparing.ground import Ground
from privynet_jax import Protocol, measure
from privynet_jax.mechanisms import releases
from privynet_jax.mechanisms.mechanism import Mechanism
from privynet_jax.mechanisms.scenes import picture_scene, released_scene
from privynet_jax.results.cells import Cell, Measurement, training_key

# Of a release's randomness: apart from the streams of a cell's tasks, which are small numbers.
_STREAM = 2**31 - 1


class OfAnySign(nn.Module):
    """A network for representations that noise has made negative; its own takes any above -1."""

    network: nn.Module

    @property
    def image_size(self) -> int:
        """As its own says."""
        return self.network.image_size

    def __call__(self, x: jax.Array, *others: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] and whatever else the network takes -> what it gives."""
        return self.network(releases.folded(x), *others)


def measure_under(
    ground: Ground,
    cells: Sequence[Cell],
    mechanism: Mechanism,
    protocol: Protocol,
    copies: int,
    seed: int,
    repeats: int = 1,
) -> list[Measurement]:
    """Returns a measurement per cell, all of one layer and depth, or of pictures.

    The attacker has so many copies of its images, each released anew; the seed is of training, and
    of the releases' randomness. Everything is released so often, and its mean used.
    """
    scenes = []
    for cell in cells:
        clean = (
            picture_scene(ground.parts)
            if mechanism.releases_pictures
            else ground.scene(cell.topology)
        )
        key = jax.random.fold_in(training_key(cell, seed), _STREAM)
        scenes.append(released_scene(clean, mechanism, key, copies, repeats))
    return measure(cells, scenes, protocol, seed)
