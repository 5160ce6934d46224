"""What a defence is worth: a cloud NN and attackers that are all trained on defended releases.

The same networks and attacks as a characterisation's, on `defended` features: the cloud NN learns
from the one defended release of the target images; the attackers, who know the defence with its
parameters, from defended pairs of their own.

    ground = Ground(parts, features, weights, copies=3, seed=0)
    measurements = ground.measure(cells, parse_defence("dropout:rate=0.5"), protocol)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax

from privynet_jax import Parts, PretrainedWeights, Protocol, measure
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.defences.defended import (
    defended_features,
    normalised_local_nn,
    several_copies,
)
from privynet_jax.defences.mechanisms import Defence, folded
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.measurement import Measurement

# Of a release's randomness: apart from the streams of a cell's tasks, which are small numbers.
_STREAM = 2**31 - 1


class OfAnySign(nn.Module):
    """A network for representations that noise has made negative in places.

    Attributes:
        network: takes values above -1.
    """

    network: nn.Module

    @property
    def image_size(self) -> int:
        """Side of the images in pixels, from which the representations came."""
        return self.network.image_size

    def __call__(self, x: jax.Array, *others: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] and whatever else the network takes -> what it gives."""
        return self.network(folded(x), *others)


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """What all defences are tried on.

    Attributes:
        parts: the images, each once.
        features: layers by number, without a defence.
        weights: of the local NN; needed for defences that change the image.
        copies: of the attacker's images, each defended anew.
        seed: of training, and of the releases' randomness.
    """

    parts: Parts
    features: Mapping[int, LayerFeatures]
    weights: PretrainedWeights | None
    copies: int
    seed: int

    def measure(
        self, cells: Sequence[Cell], defence: Defence, protocol: Protocol
    ) -> list[Measurement]:
        """Returns a measurement per cell, all of one layer and depth; see `measure.measure`."""
        parts = several_copies(self.parts, self.copies)
        scenes = [self._scene(cell, defence, parts) for cell in cells]
        return measure(cells, scenes, protocol, self.seed)

    def _scene(self, cell: Cell, defence: Defence, parts: Parts) -> Scenario:
        layer, local = self.features[cell.topology.num_layers], None
        if defence.changes_image:
            scales = layer.scales[layer.positions(cell.topology.channels)]
            local = normalised_local_nn(self.weights.params, cell.topology, scales)
        key = jax.random.fold_in(training_key(cell, self.seed), _STREAM)
        features = defended_features(
            layer, self.parts, cell.topology, defence, key, copies=self.copies, local=local
        )
        return Scenario(cell.topology, parts, features, copies=self.copies)
