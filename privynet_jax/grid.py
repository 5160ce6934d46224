"""Trains and attacks the cells of a grid on all devices; the only file that maps over devices.

Cells of one layer have one shape: the channel axis is padded with zeros to the grid's largest
depth, so a layer compiles once. A group of cells goes through training side by side, one or more
per device. `features` and `data` give the arrays, `training` the steps, `results` keeps the rest.

    for measurement in characterise(cells, missing, features, parts, settings, execution, seed=0):
        ...  # one per missing cell, as soon as its group is done

On CPU a device (one per core) holds one cell and takes one step per dispatch; XLA's CPU backend
runs convolutions far slower under `vmap` over their weights and inside `scan`. Accelerators are
the other way round. `Execution` says which; the numbers are the same up to rounding.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax import linear, training
from privynet_jax.cells import Cell, training_key
from privynet_jax.data import Parts, as_float
from privynet_jax.features import LayerFeatures, image_features
from privynet_jax.models import CloudNN, ResidualAttacker
from privynet_jax.training import Schedule, State, Task

EVALUATION_BATCH = 128
# Positions of representations that enter a Gram matrix; more do not change 3 digits of a PSNR.
GRAM_POSITIONS = 2**19
_GRAM_BATCH = 64
# Steps that the host may be ahead of the devices, which bounds the batches waiting in memory.
_AHEAD = 2

LINEAR, RESIDUAL = "linear", "residual"

# Called with the share of one cell's work that was done since the last call.
Progress = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The networks that every cell trains, and how long."""

    cloud: CloudNN
    attacker: ResidualAttacker
    cloud_schedule: Schedule
    attacker_schedule: Schedule


@dataclasses.dataclass(frozen=True)
class Execution:
    """How cells are spread.

    Attributes:
        devices: what `jax.pmap` runs on.
        cells_per_device: cells that one device trains at once, by `vmap` when more than one.
        steps_per_dispatch: steps of one `lax.scan`; 1 means none.
    """

    devices: tuple[jax.Device, ...]
    cells_per_device: int
    steps_per_dispatch: int

    @property
    def group_size(self) -> int:
        """Cells that train side by side."""
        return len(self.devices) * self.cells_per_device


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured about one cell, per image, before it is summarised.

    Attributes:
        cell: which.
        accuracy: part name ("validation", "test") -> float32 [N], 1 where the cloud NN was right.
        attacks: attacker -> part name -> metric ("psnr_db", "ssim") -> float32 [N].
        examples: attacker -> uint8 [K, H, W, 3], its estimates of the first K test images asked for.
        seconds: wall-clock time of the group, divided by its cells.
    """

    cell: Cell
    accuracy: Mapping[str, np.ndarray]
    attacks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    examples: Mapping[str, np.ndarray]
    seconds: float


def default_execution(
    cells_per_layer: int, cells_per_device: int = 0, steps_per_dispatch: int = 0
) -> Execution:
    """Returns the execution that suits the backend; positive arguments override.

    Args:
        cells_per_layer: cells that a full layer of the grid has; no more are put side by side.
        cells_per_device: 0 means 1 on CPU, and up to 8 elsewhere.
        steps_per_dispatch: 0 means 1 on CPU and 10 elsewhere.
    """
    devices = tuple(jax.local_devices())[:cells_per_layer]
    on_cpu = devices[0].platform == "cpu"
    fitting = -(-cells_per_layer // len(devices))
    return Execution(
        devices=devices,
        cells_per_device=cells_per_device or (1 if on_cpu else min(fitting, 8)),
        steps_per_dispatch=steps_per_dispatch or (1 if on_cpu else 10),
    )


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
    cloud = MappedTask(training.cloud_task(settings.cloud, settings.cloud_schedule), execution)
    attacks = {
        LINEAR: MappedTask(training.linear_task(), execution),
        RESIDUAL: MappedTask(
            training.attacker_task(settings.attacker, settings.attacker_schedule), execution
        ),
    }
    for num_layers in sorted({cell.topology.num_layers for cell in missing}):
        layer = features[num_layers]
        mine = [cell for cell in missing if cell.topology.num_layers == num_layers]
        sums = {
            name: _linear_statistics(layer, parts, name) for name in ("auxiliary", "validation")
        }
        for start in range(0, len(mine), execution.group_size):
            group = mine[start : start + execution.group_size]
            begun = time.perf_counter()
            run = _Group(layer, parts, _members(group, layer, sums, seed, width), width, progress)
            accuracy = run.cloud(cloud)
            measured = {name: run.attack(task, examples) for name, task in attacks.items()}
            seconds = (time.perf_counter() - begun) / len(group)
            for index, cell in enumerate(group):
                yield Measurement(
                    cell=cell,
                    accuracy={part: values["accuracy"][index] for part, values in accuracy.items()},
                    attacks={
                        name: {
                            part: {metric: values[index] for metric, values in by_metric.items()}
                            for part, by_metric in by_part.items()
                        }
                        for name, (by_part, _) in measured.items()
                    },
                    examples={name: shown[index] for name, (_, shown) in measured.items()},
                    seconds=seconds,
                )


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
    """
    alone = dataclasses.replace(execution, devices=execution.devices[:1], cells_per_device=1)
    task = MappedTask(training.cloud_task(settings.cloud, settings.cloud_schedule), alone)
    layer = image_features(parts)
    member = _Member(np.arange(3), key, None)
    run = _Group(layer, parts, [member], 3, lambda share: progress(2 * share))
    return {part: values["accuracy"][0] for part, values in run.cloud(task).items()}


class MappedTask:
    """A task's functions, mapped over cells; arrays are [devices, cells per device, ...]."""

    def __init__(self, task: Task, execution: Execution) -> None:
        self.schedule, self.execution = task.schedule, execution
        self.init = _map_cells(functools.partial(_init, task), execution)
        self.steps = _map_cells(
            functools.partial(training.train_steps, task), execution, donate=(0,)
        )
        self.evaluate = _map_cells(functools.partial(training.evaluate, task), execution)
        self.predict = _map_cells(functools.partial(training.predict, task), execution)


def _init(task: Task, key_data: jax.Array, example: jax.Array) -> State:
    key = jax.random.wrap_key_data(key_data)
    return training.init_state(task, key, example.astype(np.float32))


def _map_cells(
    function: Callable[..., Any], execution: Execution, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Maps a function of one cell over the leading [devices, cells per device] axes."""
    if execution.cells_per_device > 1:
        per_device = jax.vmap(function)
    else:

        def per_device(*arguments: Any) -> Any:
            outputs = function(*jax.tree.map(lambda x: x[0], arguments))
            return jax.tree.map(lambda x: x[None], outputs)

    return jax.pmap(per_device, devices=execution.devices, donate_argnums=donate)


@dataclasses.dataclass(frozen=True, eq=False)
class _Member:
    """One cell of a group, as the arrays see it."""

    positions: np.ndarray  # of its channels among the cached ones
    key: jax.Array
    linear: linear.LinearAttack | None


def _members(
    group: Sequence[Cell],
    layer: LayerFeatures,
    sums: Mapping[str, linear.LinearStatistics],
    seed: int,
    width: int,
) -> list[_Member]:
    members = []
    for cell in group:
        positions = layer.positions(cell.topology.channels)
        attack = linear.fit(sums["auxiliary"], sums["validation"], positions)
        unused = width - len(positions)
        kernel = np.pad(attack.kernel, ((0, 0), (0, 0), (0, unused), (0, 0)))
        members.append(_Member(positions, training_key(cell, seed), attack._replace(kernel=kernel)))
    return members


def _linear_statistics(layer: LayerFeatures, parts: Parts, part: str) -> linear.LinearStatistics:
    """Sums over the first images of a part, as many as `GRAM_POSITIONS` allows."""
    stored, images = layer.parts[part], getattr(parts, part).images
    count = min(len(images), -(-GRAM_POSITIONS // int(np.prod(stored.shape[1:3]))))
    starts = range(0, count, _GRAM_BATCH)
    slices = [slice(start, min(start + _GRAM_BATCH, count)) for start in starts]
    return linear.gather_statistics(
        (np.float32(stored[rows]), as_float(images[rows])) for rows in slices
    )


class _Group:
    """Cells of one layer that go through everything side by side.

    A group that does not fill the devices repeats its last cell; the copies are dropped at the end,
    so that no number depends on how full a group is.
    """

    def __init__(
        self,
        layer: LayerFeatures,
        parts: Parts,
        members: Sequence[_Member],
        width: int,
        progress: Progress,
    ) -> None:
        self._layer, self._parts, self._width, self._progress = layer, parts, width, progress
        self._members = members

    def cloud(self, task: MappedTask) -> dict[str, dict[str, np.ndarray]]:
        """Trains and evaluates the cloud NNs: part -> "accuracy" -> float32 [cells, N]."""
        extras = self._stacked(task.execution, [()] * len(self._members))
        params = self._train(task, extras, "target", self._parts.target.labels, stream=0)
        return {
            part: self._evaluate(task, params, extras, part, getattr(self._parts, part).labels)
            for part in ("validation", "test")
        }

    def attack(
        self, task: MappedTask, examples: Sequence[int]
    ) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
        """Trains (if it trains) and evaluates one kind of attacker.

        Returns:
            Part -> metric -> float32 [cells, N]; and uint8 [cells, K, H, W, 3] of the examples.
        """
        extras = self._stacked(task.execution, [member.linear for member in self._members])
        if task.schedule is None:
            params = self._stacked(task.execution, [{}] * len(self._members))
        else:
            images = self._parts.auxiliary.images
            params = self._train(task, extras, "auxiliary", images, stream=1)
        metrics = {
            part: self._evaluate(task, params, extras, part, getattr(self._parts, part).images)
            for part in ("validation", "test")
        }
        batch = self._gather(task.execution, "test", [np.asarray(examples, int)])
        shown = self._unstacked(task.predict(params, extras, batch))
        return metrics, np.uint8(np.round(255 * shown))

    def _train(
        self, task: MappedTask, extras: Any, part: str, targets: np.ndarray, stream: int
    ) -> Any:
        execution, schedule = task.execution, task.schedule
        keys = [jax.random.split(jax.random.fold_in(m.key, stream)) for m in self._members]
        orders = [training.batch_order(order, len(targets), schedule) for _, order in keys]
        key_data = self._stacked(execution, [np.asarray(jax.random.key_data(k)) for k, _ in keys])
        example = self._gather(execution, part, [order[0] for order in orders])
        state = task.init(key_data, example)
        losses: collections.deque[jax.Array] = collections.deque()
        for start in range(0, schedule.steps, execution.steps_per_dispatch):
            rows = [order[start : start + execution.steps_per_dispatch] for order in orders]
            batch = self._gather(execution, part, rows)
            answers = self._stacked(execution, [targets[mine] for mine in rows])
            # Returns at once; the next batch is gathered on the host while the devices work.
            state, loss = task.steps(state, extras, batch, answers)
            losses.append(loss)
            if len(losses) > _AHEAD:
                losses.popleft().block_until_ready()
            # Cloud NN and attacker count alike, half a cell each.
            self._progress(0.5 * len(self._members) * len(rows[0]) / schedule.steps)
        return state.params

    def _evaluate(
        self, task: MappedTask, params: Any, extras: Any, part: str, targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        batches = []
        for start in range(0, len(targets), EVALUATION_BATCH):
            rows = np.arange(start, start + EVALUATION_BATCH)
            # The last batch repeats its last image up to the one shape that is compiled.
            filled = np.minimum(rows, len(targets) - 1)
            count = len(self._members)
            batch = self._gather(task.execution, part, [filled] * count)
            answers = self._stacked(task.execution, [targets[filled]] * count)
            values = task.evaluate(params, extras, batch, answers)
            real = min(EVALUATION_BATCH, len(targets) - start)
            batches.append({name: self._unstacked(x)[:, :real] for name, x in values.items()})
        return {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}

    def _gather(self, execution: Execution, part: str, rows: Sequence[np.ndarray]) -> np.ndarray:
        """float16 [devices, cells per device, *rows' shape, h, w, width] of each cell's channels."""
        per_cell = []
        for member, mine in zip(
            self._members, rows * (len(self._members) // len(rows)), strict=True
        ):
            flat = self._layer.gather(part, mine.ravel(), member.positions, self._width)
            per_cell.append(flat.reshape(*mine.shape, *flat.shape[1:]))
        return self._stacked(execution, per_cell)

    def _stacked(self, execution: Execution, per_cell: Sequence[Any]) -> Any:
        """Stacks one pytree per cell to leading axes [devices, cells per device]."""
        filled = [*per_cell, *[per_cell[-1]] * (execution.group_size - len(per_cell))]
        shape = (len(execution.devices), execution.cells_per_device)
        return jax.tree.map(lambda *x: np.stack(x).reshape(*shape, *np.shape(x[0])), *filled)

    def _unstacked(self, array: jax.Array) -> np.ndarray:
        """[devices, cells per device, ...] -> [cells, ...], without the copies."""
        values = np.asarray(array)
        return values.reshape(-1, *values.shape[2:])[: len(self._members)]
