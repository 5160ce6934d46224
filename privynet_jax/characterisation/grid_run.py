"""A characterisation under way, and how the mode dedicated measures its cells.

A cloud NN and every attacker are trained for each cell, in groups that fill the devices. Cells of
one layer have one shape: the channel axis is filled up with zeros to the grid's largest depth, so a
layer compiles once for all rounds. `scoring` has the other modes.

    for measurement in dedicated_measurements(run):
        ...
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.groups import Group, cell_groups
from privynet_jax.characterisation.measure import REPORTED, Protocol, outcomes
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.releases import copies_for
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.platform import signals
from privynet_jax.results.cells import Cell, Measurement, release_key
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.session import current_session, session

# Images per part that a white box attacks, about a second each on two CPU cores.
_OPTIMISED_IMAGES = 64


def _nobody(told: float) -> None:
    """Is told where nobody else wants to know."""


@dataclasses.dataclass(frozen=True, eq=False)
class GridRun:
    """What a mode needs to measure a grid's missing cells.

    Of the test images `examples`, int [K], reconstructions are kept. `progress` is told the number
    of cells done since the last call; half of one counts 0.5. `paused` is called between two
    groups, and told whether a round of the grid has just ended.
    """

    config: Config
    cells: Sequence[Cell]
    missing: Sequence[Cell]
    parts: Parts
    weights: PretrainedWeights
    features: Callable[[], Mapping[int, LayerFeatures]]
    examples: np.ndarray
    progress: Callable[[float], Any] = _nobody
    paused: Callable[[bool], Any] = _nobody

    @functools.cached_property
    def protocol(self) -> Protocol:
        """What is measured of every cell."""
        return protocol_of(self.config, self.parts, self.examples)

    def groups(self) -> list[Group]:
        """Returns the groups with missing cells, in the order of the grid's rounds.

        They are cut from all cells, and measured whole: a place that is left empty would cost as
        much, and a group keeps its checkpoint.
        """
        missing, spread = set(self.missing), current_session().spread
        every = cell_groups(self.cells, self.config.attacker.batch_size, spread)
        return [group for group in every if missing.intersection(group.cells)]


def dedicated_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group.

    Raises:
        DivergedError: training did, of some cells; all others were measured before.
        UserError: a single cell does not fit into a device's memory.
        signals.Terminated: a signal came; what was trained so far is in the checkpoints.
    """
    missing = set(run.missing)
    with everything_first() as postponed:
        for group, following in itertools.pairwise([*run.groups(), None]):
            with postponed():
                yield from group_measurements(run, group, missing)
            current_session().give_way()
            if following:
                run.paused(following.round > group.round)


def group_measurements(run: GridRun, group: Group, missing: Set[Cell]) -> Iterator[Measurement]:
    """Yields the cells of a group that are missing; errors as of `dedicated_measurements`."""
    config = run.config
    share = sum(cell in missing for cell in group.cells) / len(group.cells)
    checkpoint = checkpoint_of(config, group.name)
    # Before, because extraction asks for no signals.
    features, width = run.features()[group.num_layers], max(config.depths)
    scenes = [
        under_mechanism(Scenario(c.topology, run.parts, features, run.weights, width), config, c)
        for c in group.cells
    ]
    # Until whoever takes the measurements has saved them, and the checkpoint may go.
    with signals.deferred():
        with session(checkpoint=checkpoint, progress=lambda done: run.progress(share * done)):
            found = outcomes(group.cells, scenes, run.protocol, config.seed)
        with everything_first() as postponed:
            for each in found:
                with postponed():
                    if isinstance(each, DivergedError):
                        raise each
                    if each.cell in missing:
                        yield each
        checkpoint.discard()


def under_mechanism(
    scene: Scenario, config: Config, cell: Cell, seed: int | None = None, examples: int = 0
) -> Scenario:
    """Returns a cell's scenario as a configuration's devices release it, by its seed or another.

    Attackers are trained on so many examples, where that is more than the configuration says.
    """
    mechanism = config.of_devices
    if mechanism == Plain():
        return scene
    key = release_key(cell, config.seed if seed is None else seed)
    examples = max(examples, config.attacker.steps * config.attacker.batch_size)
    copies = copies_for(examples, len(scene.parts.auxiliary)) if mechanism.is_random else 1
    return released_scene(scene, mechanism, key, copies)


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
    """Returns where trainings in progress are kept."""
    return config.workdir / "training"


def checkpoint_of(config: Config, name: str) -> Checkpoint:
    """Returns the checkpoint of a piece of work, which alone has this name."""
    return Checkpoint(checkpoint_folder(config) / name, 60 * config.checkpoint_minutes)


def cloud_of(config: Config, parts: Parts) -> CloudNN:
    """Returns the cloud NN that a configuration asks for."""
    dtype = config.compute_dtype
    return CloudNN(parts.num_answers, parts.image_size, config.cloud_width, dtype)


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
