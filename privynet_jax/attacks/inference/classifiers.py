"""Several cloud NNs on rows of one array of representations, side by side on all devices.

`attribute` trains copies with different seeds, `membership` a network per shadow, each on rows of
its own. What a network is and what a step does is the grid's (`training`, `mapping`).

    networks = train(x, labels, [rows_of_one, rows_of_another], 30, 32, Schedule(300), key)
    networks.logits(x_test)  # float32 [2, N, 30]
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.devices import Execution, at_once, default_execution
from privynet_jax.training import tasks
from privynet_jax.training.batches import CellConstants
from privynet_jax.training.inputs import one_ahead
from privynet_jax.training.mapping import MappedTask
from privynet_jax.training.networks import CloudNN, cloud_nn
from privynet_jax.training.tasks import Schedule

_EVALUATION_BATCH = 128
# Of representations of all networks that are evaluated together, and of one training dispatch.
_EVALUATION_BYTES, _DISPATCH_BYTES = 2**26, 2**28
# No cell brings constants of its own here; these stand where the grid's cells have theirs.
_NOTHING = CellConstants((), np.zeros(1, np.int32), np.ones(1, bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Classifiers:
    """Trained networks.

    Attributes:
        groups: parameters on the devices, of `execution.group_size` networks each.
        count: of networks.
        task: what they learnt.
    """

    groups: Sequence[Any]
    count: int
    task: MappedTask

    def logits(self, representations: np.ndarray) -> np.ndarray:
        """Returns float32 [networks, N, classes] of representations [N, h, w, D]."""
        each = 4 * math.prod(representations.shape[1:]) * self.task.execution.group_size
        size, found = at_once(_EVALUATION_BATCH, each, _EVALUATION_BYTES), []
        for start in range(0, len(representations), size):
            rows = np.arange(start, start + size)
            # The last batch repeats its last image up to the one shape that is compiled.
            x = representations[np.minimum(rows, len(representations) - 1)]
            found.append(np.concatenate([self._of_group(params, x) for params in self.groups]))
        return np.concatenate(found, axis=1)[: self.count, : len(representations)]

    def _of_group(self, params: Any, x: np.ndarray) -> np.ndarray:
        execution = self.task.execution
        nothing = execution.stack([_NOTHING] * execution.group_size)
        batch = execution.stack([(x, np.zeros(len(x), np.int32))] * execution.group_size)
        outputs = self.task.predict(params, nothing, None, batch)
        return execution.unstack(outputs, execution.group_size)


def train(
    representations: np.ndarray,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    num_classes: int,
    image_size: int,
    schedule: Schedule,
    key: jax.Array,
    *,
    width: int = 64,
    progress: Callable[[float], Any] = lambda count: None,
) -> Classifiers:
    """Trains one cloud NN per subset, each from initial values and in an order of its own.

    Args:
        representations: float [N, h, w, D], an array or what reads rows (`row_views`).
        labels: int [N].
        subsets: per network int [n], the rows that it learns from.
        num_classes: how many values a label may have.
        image_size: side of the images, in pixels.
        schedule: of each network.
        key: of all that is random.
        width: channels of the networks.
        progress: told about finished networks.

    Raises:
        UserError: training diverged.
    """
    execution = default_execution(len(subsets))
    network = cloud_nn(num_classes, image_size, width)
    task = _mapped(network, schedule, execution)
    labels = np.asarray(labels, np.int32)
    groups, size = [], execution.group_size
    for start in range(0, len(subsets), size):
        keys = [jax.random.fold_in(key, start + i) for i in range(len(subsets[start:][:size]))]
        # Too few are filled up with copies of the last one.
        rows, keys = (
            [*some, *some[-1:] * (size - len(some))] for some in (subsets[start:][:size], keys)
        )
        share = len(subsets[start:][:size]) / schedule.steps
        told = _Progress(progress, share)
        groups.append(_train_group(task, representations, labels, rows, keys, told))
    return Classifiers(groups, len(subsets), task)


@functools.lru_cache(maxsize=8)  # networks of the same shapes are compiled once
def _mapped(network: CloudNN, schedule: Schedule, execution: Execution) -> MappedTask:
    return MappedTask(tasks.cloud_task(network, schedule), execution)


def _train_group(
    task: MappedTask,
    x: np.ndarray,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    keys: Sequence[jax.Array],
    progress: Callable[[int], Any],
) -> Any:
    execution, schedule = task.execution, task.task.schedule
    initial, shuffling = zip(*map(jax.random.split, keys), strict=True)
    orders = [
        subset[tasks.batch_order(key, len(subset), schedule)]
        for subset, key in zip(subsets, shuffling, strict=True)
    ]
    nothing = execution.place(execution.stack([_NOTHING] * len(subsets)))
    key_data = execution.stack([np.asarray(jax.random.key_data(key)) for key in initial])
    first = execution.stack([(x[mine[0]], labels[mine[0]]) for mine in orders])
    state = task.init(key_data, nothing, None, first)
    losses = []
    for done, batches, live in one_ahead(_dispatches(execution, x, labels, orders)):
        state, loss = task.steps(state, nothing, None, batches, live)
        # The host may be two dispatches ahead; more would fill the memory with batches.
        losses = [*losses[-1:], loss]
        losses[0].block_until_ready()
        progress(done)
    if not np.isfinite(np.asarray(loss)).all():
        raise UserError("a classifier diverged; train it with a lower learning rate")
    return state.params


def _dispatches(
    execution: Execution, x: np.ndarray, labels: np.ndarray, orders: Sequence[np.ndarray]
) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Yields (steps of this dispatch, batches, which of them are live); see `group`."""
    total, batch_size = orders[0].shape
    each = batch_size * math.prod(x.shape[1:]) * np.dtype(x.dtype).itemsize * len(orders)
    size = at_once(execution.steps_per_dispatch, each, _DISPATCH_BYTES)
    for start in range(0, total, size):
        steps = np.arange(start, start + size)
        chosen = [mine[np.minimum(steps, total - 1)] for mine in orders]
        batches = execution.stack([(x[rows], labels[rows]) for rows in chosen])
        yield int((steps < total).sum()), batches, execution.stack([steps < total] * len(orders))


@dataclasses.dataclass(frozen=True)
class _Progress:
    """Tells of steps as shares of networks."""

    tell: Callable[[float], Any]
    share: float

    def __call__(self, steps: int) -> None:
        self.tell(self.share * steps)
