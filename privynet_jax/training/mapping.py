"""A task's functions, mapped over the cells of a group.

`training` has the functions of one cell, `batches` what they are given, `execution` the devices.

    mapped = MappedTask(task, execution)
    # Leading axes are [devices, cells per device]; see `batches` for the arguments.
    state = mapped.init(key_data, constants, None, (representations, images))
    state, losses = mapped.steps(state, constants, None, batches, live)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from privynet_jax.platform.devices import Execution, map_cells, nbytes
from privynet_jax.training import tasks
from privynet_jax.training.batches import CellConstants, Resident, fetch
from privynet_jax.training.tasks import State, Task


class DoesNotFitError(Exception):
    """A training step needs more memory than the execution may use on a device."""


class MappedTask:
    """A task's functions, mapped over cells; arrays are [devices, cells per device, ...].

    Constants, residents and batches are as in `batches`; residents are [devices, ...].

    Attributes:
        init: (key data, constants, resident, batch) -> state.
        evaluate: (params, constants, resident, batch) -> metrics per image.
        predict: likewise -> outputs.
    """

    def __init__(self, task: Task, execution: Execution) -> None:
        self.task, self.execution = task, execution
        self.init = map_cells(functools.partial(_init, task), execution)
        self.evaluate = map_cells(functools.partial(_evaluate, task), execution)
        self.predict = map_cells(functools.partial(_predict, task), execution)
        self._steps = map_cells(functools.partial(_steps, task), execution, donate=(0,))
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def steps(self, *arguments: Any) -> tuple[State, jax.Array]:
        """(state, constants, resident, batches, live) -> (state, losses).

        Raises:
            DoesNotFitError: it was not compiled before, and needs more than `step_bytes`.
        """
        return self.compiled_steps(*arguments)(*arguments)

    def compiled_steps(self, *arguments: Any) -> Callable[..., Any]:
        """Returns `steps` compiled for arguments of these shapes, which are only looked at."""
        leaves, structure = jax.tree.flatten(arguments)
        shapes = structure, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
        if shapes not in self._compiled:
            compiled = self._steps.lower(*arguments).compile()
            self._check_memory(compiled, resident=arguments[2])
            self._compiled[shapes] = compiled
        return self._compiled[shapes]

    def _check_memory(self, compiled: Any, resident: Any) -> None:
        used, limit = compiled.memory_analysis(), self.execution.step_bytes
        if limit is None or used is None:  # not every backend tells
            return
        shared = sum(map(nbytes, jax.tree.leaves(resident))) // len(self.execution.devices)
        needed = (
            used.argument_size_in_bytes
            + used.output_size_in_bytes
            + used.temp_size_in_bytes
            - used.alias_size_in_bytes
            - shared
        )
        if needed > limit:
            raise DoesNotFitError(
                f"a training step of {self.execution.cells_per_device} cells of the network "
                f"{self.task.name} needs {needed / 2**20:.0f} MiB of a device's memory, and "
                f"{limit / 2**20:.0f} MiB are for it"
            )


# The functions of one cell that are mapped. Their third argument is shared by a device's cells.


def _init(
    task: Task, key_data: jax.Array, cell: CellConstants, resident: Resident | None, batch: Any
) -> State:
    representations, _ = fetch(cell, resident, batch)
    key = jax.random.wrap_key_data(key_data)
    return tasks.init_state(task, key, representations.astype(np.float32))


def _steps(
    task: Task,
    state: State,
    cell: CellConstants,
    resident: Resident | None,
    batches: Any,
    live: jax.Array,
) -> tuple[State, jax.Array]:
    fetch_one = functools.partial(fetch, cell, resident)
    return tasks.train_steps(task, state, cell.extras, batches, live, fetch_one)


def _evaluate(
    task: Task, params: Any, cell: CellConstants, resident: Resident | None, batch: Any
) -> dict[str, jax.Array]:
    return tasks.evaluate(task, params, cell.extras, *fetch(cell, resident, batch))


def _predict(
    task: Task, params: Any, cell: CellConstants, resident: Resident | None, batch: Any
) -> jax.Array:
    representations, _ = fetch(cell, resident, batch)
    return tasks.predict(task, params, cell.extras, representations)
