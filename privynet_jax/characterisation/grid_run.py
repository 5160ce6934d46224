"""A characterisation under way, as every mode sees it: what is asked for, and what there is."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.measure import REPORTED, Protocol
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.results.cells import Cell, by_layer
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import CloudNN, cloud_nn

# Images per part that a white box attacks, about a second each on two CPU cores.
_OPTIMISED_IMAGES = 64


@dataclasses.dataclass(frozen=True, eq=False)
class GridRun:
    """What a mode needs to measure a grid's missing cells.

    Attributes:
        config: the settings.
        cells: the whole grid, which fixes the padded depth, and so every number.
        mine: this process's cells; those of a layer are cut into groups, whatever is missing.
        missing: which of them to do.
        parts: images and labels.
        weights: of the local NN.
        features: returns layer -> features that hold the cells' channels.
        examples: int [K], test images whose reconstructions are kept.
        progress: told the number of cells done since the last call; half of one counts 0.5.
    """

    config: Config
    cells: Sequence[Cell]
    mine: Sequence[Cell]
    missing: Sequence[Cell]
    parts: Parts
    weights: PretrainedWeights
    features: Callable[[], Mapping[int, LayerFeatures]]
    examples: np.ndarray
    progress: Callable[[float], Any] = lambda done: None

    @property
    def width(self) -> int:
        """Channels to which all representations are filled up, so that a layer compiles once."""
        return max(cell.topology.depth for cell in self.cells)

    def scene(self, cell: Cell) -> Scenario:
        """Returns the data of a cell's topology."""
        features = self.features()[cell.topology.num_layers]
        return Scenario(cell.topology, self.parts, features, self.weights, self.width)

    def layers(self) -> Iterator[tuple[int, list[Cell]]]:
        """Yields (layer, its missing cells), layers ascending."""
        return by_layer(self.missing)


def checkpoint_folder(config: Config) -> Path:
    """Returns where a process keeps trainings in progress."""
    return config.workdir / f"training-{config.share.index}"


def checkpoint_of(config: Config, name: str) -> Checkpoint:
    """Returns the checkpoint of a piece of work, which alone has this name."""
    return Checkpoint(checkpoint_folder(config) / name, 60 * config.checkpoint_minutes)


def cloud_of(config: Config, parts: Parts) -> CloudNN:
    """Returns the cloud NN that a configuration asks for."""
    dtype = config.compute_dtype
    return cloud_nn(parts.num_classes, parts.image_size, config.cloud_width, dtype)


def protocol_of(config: Config, parts: Parts, examples: np.ndarray | None = None) -> Protocol:
    """Returns what a configuration measures of every cell: the closed form attacks in any case.

    A learning rate that is given counts for all attackers' networks; each has its own otherwise.

    Args:
        config: the settings.
        parts: images and labels.
        examples: int [K], test images whose reconstructions are kept; None keeps none.
    """
    capacities = capacities_of_size(config.attacker_width, config.attacker_blocks)
    if (rate := config.attacker.learning_rate) is not None:
        capacities = {
            name: dataclasses.replace(own, learning_rate=rate) for name, own in capacities.items()
        }
    budget = Budget(config.attacker.steps, batch_size=config.attacker.batch_size)
    training = Training(budget, capacities=capacities, dtype=config.compute_dtype)
    names = tuple(dict.fromkeys((LINEAR, *config.chosen_attackers)))
    return Protocol(
        cloud_of(config, parts),
        config.cloud,
        named_attacks(names, training),
        np.zeros(0, int) if examples is None else examples,
        optimised={
            part: np.sort(spread_over_classes(getattr(parts, part).labels, _OPTIMISED_IMAGES))
            for part in REPORTED
        },
    )
