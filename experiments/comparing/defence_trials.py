"""What a defence is worth: a cloud NN and attackers that are all trained on defended releases.

The same networks and attacks as a characterisation's (`dedicated`), on `defended` features: the
cloud NN learns from the one defended release of the target images; the attackers, who know the
defence with its parameters, from defended pairs of their own.

    trials = Trials(parts, settings, default_execution(2), seed=0)
    measurements = trials.measure(cells, layer, parse_defence("dropout:rate=0.5"))
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from privynet_jax.training.group import Member, Progress
from privynet_jax.training.inputs import LayerInputs

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation import dedicated
from privynet_jax.defences.defended import (
    DefendedFeatures,
    copies_for,
    defended_features,
    several_copies,
)
from privynet_jax.defences.mechanisms import Defence, folded
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import Execution
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.measurement import Measurement
from privynet_jax.training import linear_attack
from privynet_jax.training import tasks as training
from privynet_jax.training.attackers import attacker_tasks
from privynet_jax.training.mapping import MappedTask


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


class Trials:
    """Measures cells under one defence after another; compiles once per shape."""

    def __init__(
        self, parts: Parts, settings: dedicated.Settings, execution: Execution, *, seed: int
    ) -> None:
        """Says what is measured with.

        Args:
            parts: images and labels, each once.
            settings: networks and schedules of a characterisation.
            execution: how cells are spread; as many side by side as `measure` is given at least.
            seed: of training, and of the releases' randomness.
        """
        copies = copies_for(settings.attacker_schedule, len(parts.auxiliary))
        self._parts, self._copies = parts, copies
        self._attacked = several_copies(parts, copies)
        self._execution, self._seed = execution, seed
        self._tasks = functools.cache(functools.partial(_map_tasks, settings))

    def measure(
        self,
        cells: Sequence[Cell],
        layer: LayerFeatures,
        defence: Defence,
        local: Callable[[Cell], Callable[[jax.Array], jax.Array]] | None = None,
        progress: Progress = lambda share: None,
    ) -> list[Measurement]:
        """Returns a measurement per cell.

        Args:
            cells: draws of one layer and depth, all different.
            layer: features that hold their channels.
            defence: of all of them.
            local: cell -> images -> normalised representation, for defences of the image.
            progress: told about finished cells.

        Raises:
            UserError: training diverged, or a cell does not fit into a device's memory.
        """
        features = defended_features(
            layer,
            self._parts,
            [cell.topology for cell in cells],
            defence,
            [jax.random.fold_in(training_key(cell, self._seed), _STREAM) for cell in cells],
            copies=self._copies,
            local=[local(cell) for cell in cells] if local and defence.changes_image else (),
        )
        depth = cells[0].topology.depth
        sums = dedicated.linear_statistics(features, self._attacked.auxiliary, copies=self._copies)
        return list(
            dedicated.layer_measurements(
                cells,
                set(cells),
                functools.partial(_member, features=features, sums=sums, seed=self._seed),
                functools.partial(LayerInputs, features, self._attacked, depth),
                self._tasks,
                self._execution,
                np.arange(0),
                progress,
            )
        )


# Of a release's randomness: apart from the streams of a cell's tasks, which are small numbers.
_STREAM = 2**31 - 1


def _map_tasks(settings: dedicated.Settings, execution: Execution) -> list[MappedTask]:
    tasks = (
        training.cloud_task(OfAnySign(settings.cloud), settings.cloud_schedule),
        training.linear_task(),
        *attacker_tasks(
            settings.attackers, settings.attacker, settings.attacker_schedule, OfAnySign
        ),
    )
    return [MappedTask(task, execution) for task in tasks]


def _member(
    cell: Cell,
    features: DefendedFeatures,
    sums: Sequence[linear_attack.LinearStatistics],
    seed: int,
) -> Member:
    positions = features.positions(cell.topology.channels)
    return Member(positions, training_key(cell, seed), linear_attack.fit(*sums, positions))
