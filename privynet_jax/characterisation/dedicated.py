"""Trains and attacks the cells of a grid, group by group.

Cells of one layer have one shape: the channel axis is padded with zeros to the grid's largest
depth, so a layer compiles once. `cache` gives the features, `group` trains cells side by side on
the devices that `execution` found, `characterisation` keeps the results.

    for measurement in characterise(cells, missing, features, parts, settings, execution, seed=0):
        ...  # one per missing cell, as soon as its group is done
"""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures, image_features
from privynet_jax.errors import UserError
from privynet_jax.estimates.linear_sums import linear_statistics
from privynet_jax.images.parts import Parts
from privynet_jax.platform import signals
from privynet_jax.platform.devices import Execution
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.measurement import Measurement
from privynet_jax.training import linear_attack
from privynet_jax.training import tasks as training
from privynet_jax.training.attackers import STRONG, attacker_tasks
from privynet_jax.training.checkpoints import Checkpoints, GroupCheckpoint
from privynet_jax.training.group import Group, Member, Progress
from privynet_jax.training.inputs import LayerInputs
from privynet_jax.training.mapping import DoesNotFitError, MappedTask
from privynet_jax.training.networks import CloudNN, ResidualAttacker
from privynet_jax.training.tasks import CLOUD, Schedule

REPORTED = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The networks that every cell trains, and how long.

    Attributes:
        cloud: the cloud NN.
        attacker: the residual attacker, where `attackers` name it; others take its dtype.
        cloud_schedule: of the cloud NN.
        attacker_schedule: of each trained attacker.
        attackers: names of `trained_attackers.CAPACITIES`.
    """

    cloud: CloudNN
    attacker: ResidualAttacker
    cloud_schedule: Schedule
    attacker_schedule: Schedule
    attackers: tuple[str, ...] = (STRONG,)


def characterise(
    cells: Sequence[Cell],
    mine: Sequence[Cell],
    missing: Sequence[Cell],
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    settings: Settings,
    execution: Execution,
    *,
    seed: int,
    examples: Sequence[int] = (),
    progress: Progress = lambda share: None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Args:
        cells: the whole grid, which fixes the padded depth, and so every number.
        mine: this process's cells; those of a layer are cut into groups, whatever is missing.
        missing: which of them to do.
        features: layer -> features that hold the cells' channels.
        parts: the images and labels that the features were computed from.
        settings: the networks and schedules.
        execution: how to spread the work; see `default_execution`.
        seed: of the grid; each cell derives its own key.
        examples: indices of test images whose reconstructions are kept.
        progress: told about finished work.
        checkpoints: where groups in training are kept; None keeps none.

    Raises:
        UserError: training diverged, or a single cell does not fit into a device's memory.
        Terminated: SIGTERM came; what was trained so far is in the checkpoints.
    """
    width = max(cell.topology.depth for cell in cells)
    tasks_for = functools.cache(functools.partial(_map_tasks, settings))
    for num_layers in sorted({cell.topology.num_layers for cell in missing}):
        layer = features[num_layers]
        of_layer = [cell for cell in mine if cell.topology.num_layers == num_layers]
        sums = linear_statistics(layer, parts.auxiliary)
        member = functools.partial(_member, layer=layer, sums=sums, seed=seed, width=width)
        inputs_for = functools.partial(LayerInputs, layer, parts, width)
        # In a function of its own, so that a layer's data leave the devices before the next come.
        yield from layer_measurements(
            of_layer,
            set(missing),
            member,
            inputs_for,
            tasks_for,
            execution,
            np.asarray(examples, int),
            progress,
            checkpoints,
        )


def layer_measurements(
    cells: Sequence[Cell],
    wanted: Collection[Cell],
    member: Callable[[Cell], Member],
    inputs_for: Callable[[Execution], LayerInputs],
    tasks_for: Callable[[Execution], Sequence[MappedTask]],
    execution: Execution,
    examples: np.ndarray,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Measurement]:
    """Yields a measurement per wanted cell of one layer, group by group.

    Groups are cut from all cells, and trained whole where one cell of them is wanted: a place that
    is left empty would cost as much, and a group keeps the name of its checkpoint.

    Args:
        cells: of the layer.
        wanted: which of them are to be measured.
        member: cell -> its arrays.
        inputs_for: execution -> the layer's inputs.
        tasks_for: execution -> what every cell learns.
        execution: how to spread the work, with fewer cells per device where memory asks for it.
        examples: indices of test images whose reconstructions are kept.
        progress: told about finished work.
        checkpoints: where groups in training are kept; None keeps none.
    """
    inputs = _fitting_inputs(execution, inputs_for, tasks_for, member(cells[0]))
    tasks, size = tasks_for(inputs.execution), inputs.execution.group_size
    for start in range(0, len(cells), size):
        group = cells[start : start + size]
        chosen = [cell for cell in group if cell in wanted]
        if not chosen:
            continue
        kept = checkpoints.of_group([cell.name for cell in group]) if checkpoints else None
        trained = sum(task.task.schedule is not None for task in tasks)
        share = len(chosen) / len(group) / trained
        for measurement in _group_measurements(
            group, member, inputs, tasks, examples, _scaled(progress, share), kept
        ):
            if measurement.cell in wanted:
                yield measurement
        if kept:
            kept.discard()


def accuracy_without_split(
    parts: Parts,
    settings: Settings,
    execution: Execution,
    key: jax.Array,
    progress: Progress = lambda share: None,
) -> dict[str, np.ndarray]:
    """Trains the cloud NN on the images themselves, with a cell's schedule.

    Returns:
        Part name ("validation", "test") -> float32 [N], 1 where it was right.

    Raises:
        UserError: training diverged.
    """
    alone = dataclasses.replace(
        execution, devices=execution.devices[:1], cells_per_device=1, step_bytes=None
    )
    task = MappedTask(training.cloud_task(settings.cloud, settings.cloud_schedule), alone)
    member = Member(positions=np.arange(3), key=key, extras=())
    group = Group([member], LayerInputs(image_features(parts), parts, 3, alone), progress)
    params = group.train(task)
    right = {part: group.evaluate(task, params, part)["accuracy"][0] for part in REPORTED}
    if not np.isfinite(right["test"]).all():
        raise UserError(
            "the cloud NN of the reference without a split diverged; "
            "train with a lower learning rate"
        )
    return right


def _map_tasks(settings: Settings, execution: Execution) -> list[MappedTask]:
    tasks = (
        training.cloud_task(settings.cloud, settings.cloud_schedule),
        training.linear_task(),
        *attacker_tasks(settings.attackers, settings.attacker, settings.attacker_schedule),
    )
    return [MappedTask(task, execution) for task in tasks]


def _fitting_inputs(
    execution: Execution,
    inputs_for: Callable[[Execution], LayerInputs],
    tasks_for: Callable[[Execution], Sequence[MappedTask]],
    probe: Member,
) -> LayerInputs:
    """Returns a layer's inputs for as many cells per device as the devices' memory allows."""
    while True:
        inputs = inputs_for(execution)
        if execution.step_bytes is None:
            return inputs
        try:
            group = Group([probe], inputs)
            for task in tasks_for(execution):
                group.check_memory(task)
            return inputs
        except DoesNotFitError as error:
            if execution.cells_per_device == 1:
                raise UserError(
                    f"{error}; give smaller batches, narrower networks or smaller images"
                ) from None
            halved = -(-execution.cells_per_device // 2)
            execution = dataclasses.replace(execution, cells_per_device=halved)


def _group_measurements(
    cells: Sequence[Cell],
    member: Callable[[Cell], Member],
    inputs: LayerInputs,
    tasks: Sequence[MappedTask],
    examples: np.ndarray,
    progress: Progress,
    checkpoint: GroupCheckpoint | None,
) -> Iterator[Measurement]:
    begun = time.perf_counter()
    # SIGTERM is deferred while they train, so that their checkpoint can be saved.
    with signals.deferred():
        group = Group([member(cell) for cell in cells], inputs, progress, checkpoint)
        measured = _measure(group, tasks, examples)
    _check_finite(measured, cells)
    measured["examples"] = jax.tree.map(_as_bytes, measured["examples"])
    seconds = (time.perf_counter() - begun) / len(cells)
    for index, cell in enumerate(cells):
        fields = jax.tree.map(operator.itemgetter(index), measured)
        yield Measurement(cell=cell, seconds=seconds, **fields)


def _scaled(progress: Progress, factor: float) -> Progress:
    return lambda share: progress(factor * share)


def _measure(group: Group, tasks: Sequence[MappedTask], examples: np.ndarray) -> dict[str, Any]:
    """Returns a `Measurement`'s fields with a leading axis of cells in every array."""
    accuracy: dict[str, np.ndarray] = {}
    attacks: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    rebuilt: dict[str, np.ndarray] = {}
    for task in tasks:
        name = task.task.name
        params = group.train(task)
        metrics = {part: group.evaluate(task, params, part) for part in REPORTED}
        if name == CLOUD:
            accuracy = {part: values["accuracy"] for part, values in metrics.items()}
        else:
            attacks[name] = metrics
            rebuilt[name] = group.predict(task, params, "test", examples)
    return {
        "accuracy": accuracy,
        "attacks": attacks,
        "examples": rebuilt,
        "falling_percent": group.falling_percent,
    }


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Returns images in [0, 1] as uint8."""
    return np.uint8(np.round(255 * images))


def _check_finite(measured: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Refuses what diverged: it would pass for a weak attacker, or for an inaccurate cloud NN."""
    values = {name: metrics["test"]["psnr_db"] for name, metrics in measured["attacks"].items()}
    values[CLOUD] = measured["accuracy"]["test"]
    for name, of_cells in values.items():
        finite = np.isfinite(of_cells).all(axis=1)
        if not finite.all():
            cell = cells[int(np.argmin(finite))].name
            raise UserError(
                f"the network {name} of cell {cell} diverged: its outputs are not finite; "
                "train it with a lower learning rate"
            )


def _member(
    cell: Cell,
    layer: LayerFeatures,
    sums: Sequence[linear_attack.LinearStatistics],
    seed: int,
    width: int,
) -> Member:
    positions = layer.positions(cell.topology.channels)
    attack = linear_attack.fit(*sums, positions)
    # Channels that pad the representation are zero, so any weights would do; zeros are neatest.
    kernel = np.pad(attack.kernel, ((0, 0), (0, 0), (0, width - len(positions)), (0, 0)))
    return Member(positions, training_key(cell, seed), attack._replace(kernel=kernel))
