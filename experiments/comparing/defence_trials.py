"""What a defence is worth: a cloud NN and attackers that are all trained on defended releases.

The cloud NN of `compare_defences` learns from the one defended release of the target images; its
attackers, who know the defence with its parameters, from defended pairs of their own.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.comparing.ground import Ground
from privynet_jax import Protocol, measure
from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.defences import defended
from privynet_jax.defences.mechanisms import Defence
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
        return self.network(defended.folded(x), *others)


def measure_defended(
    ground: Ground,
    cells: Sequence[Cell],
    defence: Defence,
    protocol: Protocol,
    copies: int,
    seed: int,
) -> list[Measurement]:
    """Returns a measurement per cell, all of one layer and depth.

    The attacker has so many copies of its images, each defended anew; the seed is of training, and
    of the releases' randomness.
    """
    parts, scenes = defended.several_copies(ground.parts, copies), []
    for cell in cells:
        layer, local = ground.features[cell.topology.num_layers], None
        if defence.changes_image:
            local = ground.scene(cell.topology).knowledge(EVERYTHING).local
        key = jax.random.fold_in(training_key(cell, seed), _STREAM)
        features = defended.defended_features(
            layer, ground.parts, cell.topology, defence, key, copies=copies, local=local
        )
        scenes.append(Scenario(cell.topology, parts, features, copies=copies))
    return measure(cells, scenes, protocol, seed)
