"""A group of cells of one layer that train, and are evaluated, side by side.

`grid` forms the groups, `inputs` brings the data, `mapping` has the functions; this file calls them
in order: it draws each cell's mini-batches, keeps the devices busy, keeps what a lost machine would
lose, and takes the results apart again.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.platform import signals
from privynet_jax.platform.devices import at_once
from privynet_jax.training import tasks
from privynet_jax.training.checkpoints import GroupCheckpoint, TrainingProgress
from privynet_jax.training.convergence import Curve, falling_percent
from privynet_jax.training.inputs import LayerInputs, one_ahead
from privynet_jax.training.mapping import MappedTask

EVALUATION_BATCH = 128
# Of representations and images of one evaluated batch: large images come in smaller batches.
_EVALUATION_BYTES = 2**26
# Steps that the host may be ahead of the devices, which bounds the batches waiting in memory.
_AHEAD = 2

# Called with the number of trainings done since the last call; half of one cell's counts 0.5.
Progress = Callable[[float], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One cell of a group, as the arrays see it.

    Attributes:
        positions: int [depth], where its channels lie among the cached ones.
        key: from which everything random in its training is derived.
        extras: the pytree that its tasks receive besides; of one shape in all members.
    """

    positions: np.ndarray
    key: jax.Array
    extras: Any


class Group:
    """Cells of one layer that go through everything side by side.

    Attributes:
        falling_percent: trained network -> float64 [cells]; see `curve.falling_percent`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        inputs: LayerInputs,
        progress: Progress = lambda share: None,
        checkpoint: GroupCheckpoint | None = None,
        stop_requested: Callable[[], bool] = signals.requested,
    ) -> None:
        """Brings cells together.

        Args:
            members: at most `execution.group_size` cells.
            inputs: their layer; its execution is that of the tasks.
            progress: told about finished training steps.
            checkpoint: where the group is kept while it trains; None keeps nothing.
            stop_requested: whether to save, and give way by `Terminated`; asked at every dispatch.
        """
        self.falling_percent: dict[str, np.ndarray] = {}
        self._members, self._inputs, self._progress = members, inputs, progress
        self._checkpoint, self._stop_requested = checkpoint, stop_requested
        self._execution = inputs.execution
        self._positions = [member.positions for member in members]
        self._constants = inputs.constants(self._positions, [member.extras for member in members])
        kept = checkpoint.restore() if checkpoint else None
        self._kept = kept or TrainingProgress({})

    def check_memory(self, task: MappedTask) -> None:
        """Compiles a training step; raises `mapping.DoesNotFitError` where it is too large."""
        if task.task.schedule is not None:
            state, rows = self._initial(task)
            _, batches, live = next(self._dispatches(task, rows, start=0))
            resident = self._resident(task, task.task.part)
            task.compiled_steps(state, self._constants, resident, batches, live)

    def train(self, task: MappedTask) -> Any:
        """Trains one network per cell; returns its params, for `evaluate` and `predict`.

        Raises:
            Terminated: a stop was requested; the checkpoint, if any, has everything so far.
        """
        schedule, name = task.task.schedule, task.task.name
        if schedule is None:
            return self._execution.stack([{}] * len(self._members))
        state, rows = self._initial(task)
        if name in self._kept.finished:
            self._progress(len(self._members))
            trained = (state.params, state.curve)
            return self._noted(task, *self._restacked(trained, self._kept.finished[name]))
        start = 0
        if self._kept.task == name:
            state, start = self._restacked(state, self._kept.state), self._kept.step
            self._progress(len(self._members) * start / schedule.steps)
        resident = self._resident(task, task.task.part)
        losses: collections.deque[jax.Array] = collections.deque()
        for step, batches, live in one_ahead(self._dispatches(task, rows, start)):
            # Returns at once: the next batch is gathered on the host while the devices work.
            state, loss = task.steps(state, self._constants, resident, batches, live)
            losses.append(loss)
            if len(losses) > _AHEAD:
                losses.popleft().block_until_ready()
            self._progress(len(self._members) * int(live[0, 0].sum()) / schedule.steps)
            self._keep(name, step, state)
        self._finish(name, (state.params, state.curve))
        return self._noted(task, state.params, state.curve)

    def evaluate(self, task: MappedTask, params: Any, part: str) -> dict[str, np.ndarray]:
        """Returns metric -> float32 [cells, N] over all images of a part."""
        total, size = len(getattr(self._inputs.parts, part)), self._evaluation_batch()
        resident, batches = self._resident(task, part), []
        for start in range(0, total, size):
            # The last batch repeats its last image up to the one shape that is compiled.
            rows = np.minimum(np.arange(start, start + size), total - 1)
            batch = self._shared(task, part, rows)
            values = task.evaluate(params, self._constants, resident, batch)
            found = self._execution.unstack(values, len(self._members))
            real = min(size, total - start)
            batches.append({metric: x[:, :real] for metric, x in found.items()})
            self._keep()
        return {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}

    def predict(self, task: MappedTask, params: Any, part: str, rows: np.ndarray) -> np.ndarray:
        """Returns the outputs for chosen images of a part, [cells, len(rows), ...]."""
        # One image at least: JAX cannot take arrays without elements off several devices.
        batch = self._shared(task, part, rows if len(rows) else np.zeros(1, int))
        outputs = task.predict(params, self._constants, self._resident(task, part), batch)
        return self._execution.unstack(outputs, len(self._members))[:, : len(rows)]

    def _initial(self, task: MappedTask) -> tuple[tasks.State, list[np.ndarray]]:
        """The state before the first step, and per cell its rows [steps, batch size]."""
        total = len(getattr(self._inputs.parts, task.task.part))
        keys = [jax.random.fold_in(member.key, task.task.stream) for member in self._members]
        initial, shuffling = zip(*map(jax.random.split, keys), strict=True)
        rows = [tasks.batch_order(key, total, task.task.schedule) for key in shuffling]
        key_data = self._execution.stack([np.asarray(jax.random.key_data(key)) for key in initial])
        batch = self._batch(task, task.task.part, [mine[0] for mine in rows])
        resident = self._resident(task, task.task.part)
        return task.init(key_data, self._constants, resident, batch), rows

    def _dispatches(
        self, task: MappedTask, rows: Sequence[np.ndarray], start: int
    ) -> Iterator[tuple[int, Any, np.ndarray]]:
        """Yields (steps done after it, batches, which of its steps are live) per dispatch."""
        total, size = len(rows[0]), self._execution.steps_per_dispatch
        for first in range(start, total, size):
            steps = np.arange(first, first + size)
            # Steps beyond the last one are computed and thrown away: one shape is compiled.
            chosen = [mine[np.minimum(steps, total - 1)] for mine in rows]
            live = self._execution.stack([steps < total] * len(self._members))
            yield min(first + size, total), self._batch(task, task.task.part, chosen), live

    def _keep(self, name: str = "", step: int = 0, state: Any = None) -> None:
        """Saves a checkpoint where one is due; gives way where a stop was requested."""
        stop = self._stop_requested()
        if self._checkpoint and (stop or self._checkpoint.is_due()):
            progress = TrainingProgress(self._kept.finished, name, step, self._leaves(state))
            self._checkpoint.save(progress, wait=stop)
        if stop:
            raise signals.Terminated

    def _noted(self, task: MappedTask, params: Any, curve: Curve) -> Any:
        sums = self._execution.unstack(curve.sums, len(self._members))
        steps, error = task.task.schedule.steps, task.task.error
        self.falling_percent[task.task.name] = np.array(
            [falling_percent(of_cell, steps, error) for of_cell in sums]
        )
        return params

    def _finish(self, name: str, trained: tuple[Any, Curve]) -> None:
        if self._checkpoint:
            done = {**self._kept.finished, name: self._leaves(trained)}
            self._kept = TrainingProgress(done)

    def _leaves(self, tree: Any) -> list[np.ndarray]:
        return jax.tree.leaves(self._execution.unstack(tree, len(self._members)))

    def _restacked(self, like: Any, leaves: Sequence[np.ndarray]) -> Any:
        """Puts a checkpoint's leaves [cells, ...] back on the devices, in the form of a tree."""
        structure = jax.tree.structure(like)
        cells = [structure.unflatten(x[cell] for x in leaves) for cell in range(len(self._members))]
        return self._execution.place(self._execution.stack(cells))

    def _evaluation_batch(self) -> int:
        pixels = math.prod(self._inputs.parts.test.images.shape[1:])
        values = pixels + math.prod(self._inputs.fetched_shape)
        of_device = 4 * values * self._execution.cells_per_device
        return at_once(EVALUATION_BATCH, of_device, _EVALUATION_BYTES)

    def _resident(self, task: MappedTask, part: str) -> Any:
        return self._inputs.resident(part, task.task.targets)

    def _shared(self, task: MappedTask, part: str, rows: np.ndarray) -> Any:
        return self._batch(task, part, [rows] * len(self._members))

    def _batch(self, task: MappedTask, part: str, rows: Sequence[np.ndarray]) -> Any:
        return self._inputs.batch(part, task.task.targets, self._positions, rows)
