"""Trains and attacks the cells of a grid, group by group.

Cells of one layer have one shape: the channel axis is padded with zeros to the grid's largest
depth, so a layer compiles once. `cache` gives the features, `group` trains cells side by side on
the devices that `execution` found, `characterisation` keeps the results.

    for measurement in characterise(cells, missing, features, parts, settings, execution, seed=0):
        ...  # one per missing cell, as soon as its group is done
"""

import dataclasses
import itertools
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax import linear, training
from privynet_jax.cells import Cell, training_key
from privynet_jax.data import Part, Parts, as_float
from privynet_jax.errors import UserError
from privynet_jax.execution import Execution, MappedTask
from privynet_jax.features import LayerFeatures, image_features
from privynet_jax.group import Group, Member, Progress
from privynet_jax.models import CloudNN, ResidualAttacker
from privynet_jax.training import Schedule

# Positions of representations that enter a Gram matrix: over 100 per unknown at 512 channels.
GRAM_POSITIONS = 2**19
# Share of the attacker's images on which the linear attack chooses its ridge.
_HELD_OUT = 0.2
_GRAM_BATCH = 64

CLOUD, LINEAR, RESIDUAL = "cloud", "linear", "residual"
_REPORTED = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The networks that every cell trains, and how long."""

    cloud: CloudNN
    attacker: ResidualAttacker
    cloud_schedule: Schedule
    attacker_schedule: Schedule


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured about one cell, per image, before it is summarised.

    Attributes:
        cell: which.
        accuracy: part name ("validation", "test") -> float32 [N], 1 where the cloud NN was right.
        attacks: attacker -> part name -> metric ("psnr_db", "ssim") -> float32 [N].
        examples: attacker -> uint8 [K, H, W, 3], its estimates of the K test images asked for.
        seconds: wall-clock time of the group, divided by its cells.
    """

    cell: Cell
    accuracy: Mapping[str, np.ndarray]
    attacks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    examples: Mapping[str, np.ndarray]
    seconds: float


def characterise(
    cells: Sequence[Cell],
    missing: Sequence[Cell],
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    settings: Settings,
    execution: Execution,
    *,
    seed: int,
    examples: Sequence[int] = (),
    progress: Progress = lambda share: None,
) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Args:
        cells: the whole grid, which fixes the padded depth, and so every number.
        missing: the cells to do.
        features: layer -> features that hold the cells' channels.
        parts: the images and labels that the features were computed from.
        settings: the networks and schedules.
        execution: how to spread the work; see `default_execution`.
        seed: of the grid; each cell derives its own key.
        examples: indices of test images whose reconstructions are kept.
        progress: told about finished work.
    """
    width = max(cell.topology.depth for cell in cells)
    tasks = _map_tasks(settings, execution)
    for num_layers in sorted({cell.topology.num_layers for cell in missing}):
        layer = features[num_layers]
        of_layer = [cell for cell in missing if cell.topology.num_layers == num_layers]
        sums = linear_statistics(layer, parts.auxiliary)
        for start in range(0, len(of_layer), execution.group_size):
            chosen = of_layer[start : start + execution.group_size]
            begun = time.perf_counter()
            members = [_member(cell, layer, sums, seed, width) for cell in chosen]
            # Two networks of each cell are trained.
            group = Group(members, layer, parts, width, execution, lambda done: progress(done / 2))
            measured = measure(group, tasks, np.asarray(examples, int))
            check_finite(measured, chosen)
            measured["examples"] = jax.tree.map(as_bytes, measured["examples"])
            seconds = (time.perf_counter() - begun) / len(chosen)
            for index, cell in enumerate(chosen):
                mine = jax.tree.map(operator.itemgetter(index), measured)
                yield Measurement(cell=cell, seconds=seconds, **mine)


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
    alone = dataclasses.replace(execution, devices=execution.devices[:1], cells_per_device=1)
    task = MappedTask(training.cloud_task(settings.cloud, settings.cloud_schedule), alone)
    member = Member(positions=np.arange(3), key=key, extras=())
    group = Group([member], image_features(parts), parts, 3, alone, progress)
    params = group.train(task)
    right = {part: group.evaluate(task, params, part)["accuracy"][0] for part in _REPORTED}
    if not np.isfinite(right["test"]).all():
        raise UserError(
            "the cloud NN of the reference without a split diverged; "
            "train with a lower learning rate"
        )
    return right


def _map_tasks(settings: Settings, execution: Execution) -> dict[str, MappedTask]:
    tasks = {
        CLOUD: training.cloud_task(settings.cloud, settings.cloud_schedule),
        LINEAR: training.linear_task(),
        RESIDUAL: training.attacker_task(settings.attacker, settings.attacker_schedule),
    }
    return {name: MappedTask(task, execution) for name, task in tasks.items()}


def measure(group: Group, tasks: Mapping[str, MappedTask], examples: np.ndarray) -> dict[str, Any]:
    """Returns a `Measurement`'s fields with a leading axis of cells in every array."""
    accuracy: dict[str, np.ndarray] = {}
    attacks: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    rebuilt: dict[str, np.ndarray] = {}
    for name, task in tasks.items():
        params = group.train(task)
        metrics = {part: group.evaluate(task, params, part) for part in _REPORTED}
        if name == CLOUD:
            accuracy = {part: values["accuracy"] for part, values in metrics.items()}
        else:
            attacks[name] = metrics
            rebuilt[name] = group.predict(task, params, "test", examples)
    return {"accuracy": accuracy, "attacks": attacks, "examples": rebuilt}


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Returns images in [0, 1] as uint8."""
    return np.uint8(np.round(255 * images))


def check_finite(measured: Mapping[str, Any], cells: Sequence[Cell]) -> None:
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
    sums: Sequence[linear.LinearStatistics],
    seed: int,
    width: int,
) -> Member:
    positions = layer.positions(cell.topology.channels)
    attack = linear.fit(*sums, positions)
    # Channels that pad the representation are zero, so any weights would do; zeros are neatest.
    kernel = np.pad(attack.kernel, ((0, 0), (0, 0), (0, width - len(positions)), (0, 0)))
    return Member(positions, training_key(cell, seed), attack._replace(kernel=kernel))


def linear_statistics(
    layer: LayerFeatures, auxiliary: Part, positions: int = GRAM_POSITIONS
) -> tuple[linear.LinearStatistics, linear.LinearStatistics]:
    """Sums over the first auxiliary images, as many as `positions` allows: most; the rest."""
    stored = layer.parts["auxiliary"]
    count = min(len(auxiliary), -(-positions // int(np.prod(stored.shape[1:3]))))
    fitted = max(1, count - max(1, round(_HELD_OUT * count)))

    def sums(start: int, stop: int) -> linear.LinearStatistics:
        cuts = [*range(start, stop, _GRAM_BATCH), stop]
        return linear.gather_statistics(
            (np.float32(stored[begin:end]), as_float(auxiliary.images[begin:end]))
            for begin, end in itertools.pairwise(cuts)
        )

    return sums(0, fitted), sums(min(fitted, count - 1), count)
