"""A task's functions, mapped over the members of a group, and compiled once.

`steps` has the functions of one member, `platform.devices` the devices; `trainer` calls.

    mapped = mapped_task(task, execution)
    # Leading axes are `Execution.places`; those of resident data are [devices, ...].
    arguments = (mapped.init(key_data, constants, None, batch), constants, None, dispatch)
    state, losses = mapped.compiled_steps(*arguments)(*arguments)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from privynet_jax.platform.devices import Execution, map_members, nbytes
from privynet_jax.training.steps import first_state, take_steps
from privynet_jax.training.tasks import Task

# Dispatches that the host may be ahead of the devices, which bounds what waits in memory.
AHEAD = 2


class DoesNotFitError(Exception):
    """A training step needs more memory than the execution may use on a device."""


class MappedTask:
    """`steps.first_state`, as `init`, and `steps.take_steps`, mapped over members."""

    def __init__(self, task: Task, execution: Execution) -> None:
        self._task, self._execution = task, execution
        self.init = map_members(functools.partial(first_state, task), execution)
        self._steps = map_members(functools.partial(take_steps, task), execution, donate=(0,))
        # By shapes; what does not fit is kept too, so that nobody compiles it again to find out.
        self._compiled: dict[Any, Callable[..., Any] | DoesNotFitError] = {}

    def compiled_steps(self, *arguments: Any) -> Callable[..., Any]:
        """Returns `steps.take_steps`, compiled for (state, constants, resident, dispatch).

        Of the arguments only shapes are looked at. The losses are [*places, steps].

        Raises:
            DoesNotFitError: it needs more than `step_bytes`.
        """
        leaves, structure = jax.tree.flatten(arguments)
        shapes = structure, tuple((np.shape(x), np.dtype(x.dtype)) for x in leaves)
        if shapes not in self._compiled:
            compiled = self._steps.lower(*arguments).compile()
            refused = self._refusal(compiled.memory_analysis(), *arguments[2:])
            self._compiled[shapes] = refused or compiled
        found = self._compiled[shapes]
        if isinstance(found, DoesNotFitError):
            raise found.with_traceback(None)
        return found

    def _refusal(self, used: Any, resident: Any, dispatch: Any) -> DoesNotFitError | None:
        """Why a compiled dispatch does not fit into a device's memory, if it does not."""
        limit, devices = self._execution.step_bytes, len(self._execution.devices)
        if limit is None or used is None:  # not every backend tells
            return None
        # [places, ...]: a device's own share, or the one copy that every device has whole.
        shared, waiting = (
            sum(map(nbytes, jax.tree.leaves(tree))) // copies
            for tree, copies in ((resident, self._execution.places[0]), (dispatch, devices))
        )
        needed = (
            used.argument_size_in_bytes
            + used.output_size_in_bytes
            + used.temp_size_in_bytes
            - used.alias_size_in_bytes
            - shared
            + AHEAD * waiting
        )
        if needed <= limit:
            return None
        return DoesNotFitError(
            f"a training step of {self._execution.cells_per_device} cells of the network "
            f"{self._task.name} needs {needed / 2**20:.1f} MiB of a device's memory, and "
            f"{limit / 2**20:.1f} MiB are for it"
        )


@functools.lru_cache(maxsize=64)
def mapped_task(task: Task, execution: Execution) -> MappedTask:
    """Returns a task's functions; equal arguments share what is compiled."""
    return MappedTask(task, execution)
