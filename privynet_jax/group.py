"""A group of cells of one layer that train, and are evaluated, side by side.

`grid` forms the groups; `execution` maps the task's functions over the devices; this file brings
data and cells together: it gathers each cell's mini-batches, keeps the devices busy, and takes the
results apart again.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax import training
from privynet_jax.data import Parts
from privynet_jax.execution import Execution, MappedTask
from privynet_jax.features import LayerFeatures

EVALUATION_BATCH = 128
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

    A group that does not fill the devices repeats its last cell; the copies are dropped at the end,
    so that no number depends on how full a group is.
    """

    def __init__(
        self,
        members: Sequence[Member],
        layer: LayerFeatures,
        parts: Parts,
        width: int,
        execution: Execution,
        progress: Progress,
    ) -> None:
        """Brings cells together.

        Args:
            members: at most `execution.group_size` cells.
            layer: their features.
            parts: images and labels.
            width: channels to which every representation is padded.
            execution: how to spread them; that of the tasks.
            progress: told about finished training steps.
        """
        self._members, self._layer, self._parts = members, layer, parts
        self._width, self._execution, self._progress = width, execution, progress
        self._extras = self._stacked([member.extras for member in members])

    def train(self, task: MappedTask) -> Any:
        """Trains one network per cell; returns its params, for `evaluate` and `predict`."""
        schedule = task.task.schedule
        if schedule is None:
            return self._stacked([{}] * len(self._members))
        targets = self._targets(task, task.task.part)
        keys = [jax.random.fold_in(member.key, task.task.stream) for member in self._members]
        initial, shuffling = zip(*map(jax.random.split, keys), strict=True)
        orders = [training.batch_order(key, len(targets), schedule) for key in shuffling]
        key_data = self._stacked([np.asarray(jax.random.key_data(key)) for key in initial])
        state = task.init(key_data, self._gather(task.task.part, [order[0] for order in orders]))
        losses: collections.deque[jax.Array] = collections.deque()
        for start in range(0, schedule.steps, self._execution.steps_per_dispatch):
            rows = [order[start : start + self._execution.steps_per_dispatch] for order in orders]
            batch = self._gather(task.task.part, rows)
            answers = self._stacked([targets[mine] for mine in rows])
            # Returns at once; the next batch is gathered on the host while the devices work.
            state, loss = task.steps(state, self._extras, batch, answers)
            losses.append(loss)
            if len(losses) > _AHEAD:
                losses.popleft().block_until_ready()
            self._progress(len(self._members) * len(rows[0]) / schedule.steps)
        return state.params

    def evaluate(self, task: MappedTask, params: Any, part: str) -> dict[str, np.ndarray]:
        """Returns metric -> float32 [cells, N] over all images of a part."""
        targets = self._targets(task, part)
        batches = []
        for start in range(0, len(targets), EVALUATION_BATCH):
            real = min(EVALUATION_BATCH, len(targets) - start)
            # The last batch repeats its last image up to the one shape that is compiled.
            rows = np.minimum(np.arange(start, start + EVALUATION_BATCH), len(targets) - 1)
            batch, answers = self._shared(part, rows), self._stacked(self._repeated(targets[rows]))
            values = task.evaluate(params, self._extras, batch, answers)
            batches.append({name: self._unstacked(x)[:, :real] for name, x in values.items()})
        return {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}

    def predict(self, task: MappedTask, params: Any, part: str, rows: np.ndarray) -> np.ndarray:
        """Returns the outputs for chosen images of a part, [cells, len(rows), ...]."""
        return self._unstacked(task.predict(params, self._extras, self._shared(part, rows)))

    def _targets(self, task: MappedTask, part: str) -> np.ndarray:
        return getattr(getattr(self._parts, part), task.task.targets)

    def _shared(self, part: str, rows: np.ndarray) -> np.ndarray:
        return self._gather(part, self._repeated(rows))

    def _gather(self, part: str, rows: Sequence[np.ndarray]) -> np.ndarray:
        """float16 [devices, cells per device, *rows[i].shape, h, w, width], zeros included."""
        batches = []
        for member, mine in zip(self._members, rows, strict=True):
            flat = self._layer.gather(part, mine.ravel(), member.positions, self._width)
            batches.append(flat.reshape(*mine.shape, *flat.shape[1:]))
        return self._stacked(batches)

    def _repeated(self, array: np.ndarray) -> list[np.ndarray]:
        return [array] * len(self._members)

    def _stacked(self, per_cell: Sequence[Any]) -> Any:
        """Stacks one pytree per cell to leading axes [devices, cells per device]."""
        filled = [*per_cell, *[per_cell[-1]] * (self._execution.group_size - len(per_cell))]
        shape = (len(self._execution.devices), self._execution.cells_per_device)
        return jax.tree.map(lambda *x: np.stack(x).reshape(*shape, *np.shape(x[0])), *filled)

    def _unstacked(self, array: jax.Array) -> np.ndarray:
        """[devices, cells per device, ...] -> [cells, ...], without the copies."""
        values = np.asarray(array)
        return values.reshape(-1, *values.shape[2:])[: len(self._members)]
