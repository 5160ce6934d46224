"""A characterisation under way, and how the mode dedicated measures its cells.

A cloud NN and every attacker are trained for each cell, in groups that fill the devices. Cells of
one layer have one shape: the channel axis is filled up with zeros to the grid's largest depth, so a
layer compiles once. `scoring` has the other modes.

    for measurement in dedicated_measurements(run):
        ...
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import DEDICATED, Config
from privynet_jax.characterisation.measure import REPORTED, Protocol, outcomes
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform import signals
from privynet_jax.platform.devices import execution_for
from privynet_jax.results.cells import Cell, Measurement, by_layer
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.session import current_session, session

# Images per part that a white box attacks, about a second each on two CPU cores.
_OPTIMISED_IMAGES = 64


@dataclasses.dataclass(frozen=True, eq=False)
class GridRun:
    """What a mode needs to measure a grid's missing cells.

    Of this process's cells, `mine`, those of a layer are cut into groups, whatever is missing.
    Of the test images `examples`, int [K], reconstructions are kept. `progress` is told the number
    of cells done since the last call; half of one counts 0.5.
    """

    config: Config
    mine: Sequence[Cell]
    missing: Sequence[Cell]
    parts: Parts
    weights: PretrainedWeights
    features: Callable[[], Mapping[int, LayerFeatures]]
    examples: np.ndarray
    progress: Callable[[float], Any] = lambda done: None


def dedicated_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Groups are cut from all of the process's cells, and measured whole where one cell of them is
    missing: a place that is left empty would cost as much, and a group keeps its checkpoint.

    Raises:
        DivergedError: training did, of some cells; all others were measured before.
        UserError: a single cell does not fit into a device's memory.
        signals.Terminated: a signal came; what was trained so far is in the checkpoints.
    """
    config, missing, spread = run.config, set(run.missing), current_session().spread
    protocol = protocol_of(config, run.parts, run.examples)
    with everything_first() as postponed:
        for number, cells in by_layer(run.mine):
            size = execution_for(len(cells), config.attacker.batch_size, spread).group_size
            for start in range(0, len(cells), size):
                group = cells[start : start + size]
                if missing.intersection(group):
                    with postponed():
                        yield from _of_group(run, protocol, number, group)
                    current_session().give_way()


def _of_group(
    run: GridRun, protocol: Protocol, number: int, group: Sequence[Cell]
) -> Iterator[Measurement]:
    """Yields what is missing of a group of cells of one layer."""
    config, missing = run.config, set(run.missing).intersection(group)
    share = len(missing) / len(group)
    names = " ".join(cell.name for cell in group)
    checkpoint = checkpoint_of(config, hashlib.sha256(names.encode()).hexdigest()[:16])
    features = run.features()[number]  # before, because extraction asks for no signals
    width = max(config.depths)
    scenes = [Scenario(cell.topology, run.parts, features, run.weights, width) for cell in group]
    # Until whoever takes the measurements has saved them, and the checkpoint may go.
    with signals.deferred():
        with session(checkpoint=checkpoint, progress=lambda done: run.progress(share * done)):
            found = outcomes(group, scenes, protocol, config.seed)
        with everything_first() as postponed:
            for each in found:
                with postponed():
                    if isinstance(each, DivergedError):
                        raise each
                    if each.cell in missing:
                        yield each
        checkpoint.discard()


def cached_channels(config: Config, topologies: Sequence[Topology]) -> dict[int, tuple[int, ...]]:
    """Returns layer -> channels whose features a grid of topologies needs.

    That is all of them where subsets are estimated, be it to score cells or to choose channels; and
    where some cells alone are wanted, because estimates that chose them have cached those.
    """
    if config.mode == DEDICATED and set(config.selections) == {RANDOM} and not config.only:
        return needed_channels(topologies)
    layers = sorted({(topology.num_layers, topology.layer.channels) for topology in topologies})
    return {number: tuple(range(channels)) for number, channels in layers}


def checkpoint_folder(config: Config) -> Path:
    """Returns where a process keeps trainings in progress."""
    return config.workdir / f"training-{config.share.index}"


def checkpoint_of(config: Config, name: str) -> Checkpoint:
    """Returns the checkpoint of a piece of work, which alone has this name."""
    return Checkpoint(checkpoint_folder(config) / name, 60 * config.checkpoint_minutes)


def cloud_of(config: Config, parts: Parts) -> CloudNN:
    """Returns the cloud NN that a configuration asks for."""
    dtype = config.compute_dtype
    return CloudNN(parts.num_classes, parts.image_size, config.cloud_width, dtype)


def protocol_of(config: Config, parts: Parts, examples: np.ndarray | None = None) -> Protocol:
    """Returns what a configuration measures of every cell: the closed form attacks in any case.

    A learning rate that is given counts for all attackers' networks; each has its own otherwise.
    Of the test images `examples`, int [K], reconstructions are kept.
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
