"""A task's functions, mapped over the members of a group, and compiled once.

`steps` has the functions of one member, `platform.devices` the devices; `trainer` calls.

    mapped = mapped_task(task, execution)
    # Leading axes are `Execution.places`.
    state = mapped.init(key_data, constants, None, (representations, targets))
    state, losses = mapped.steps(state, constants, None, dispatch)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.platform.devices import Execution, map_members, nbytes
from privynet_jax.training.steps import Dispatch, State, as_float32, init_state, take_steps
from privynet_jax.training.tasks import Task


class DoesNotFitError(Exception):
    """A training step needs more memory than the execution may use on a device."""


class Constants(NamedTuple):
    """What a member brings to every step, and training does not change.

    Attributes:
        own: the task's constants.
        key: data of the key of `Task.draw`.
        channels: int32 [width], positions of its channels among the stored ones, then zeros.
        released: bool [width], false where a channel only fills up the width.
    """

    own: Any
    key: jax.Array
    channels: jax.Array
    released: jax.Array


class Resident(NamedTuple):
    """Data in a device's memory, shared by the device's members.

    Attributes:
        representations: [N, h, w, C], all stored channels of the layer.
        targets: labels int [N], or images uint8 [N, H, W, 3].
    """

    representations: jax.Array
    targets: jax.Array


def fetch(constants: Constants, resident: Resident | None, batch: Any) -> tuple[Any, Any]:
    """Returns (representations [B, h, w, width], targets [B, ...]) of one batch.

    Args:
        constants: the member's.
        resident: the data that it learns from, or None where the host gathers.
        batch: int [B], rows of the resident data; or what is returned, where the host gathers.
    """
    if resident is None:
        return batch
    chosen = jnp.take(resident.representations[batch], constants.channels, axis=-1)
    return jnp.where(constants.released, chosen, 0), resident.targets[batch]


class MappedTask:
    """A task's functions, mapped over members; arrays are [*places, ...], residents [devices, ...].

    Attributes:
        init: (key data, constants, resident, batch) -> state.
    """

    def __init__(self, task: Task, execution: Execution) -> None:
        self._task, self._execution = task, execution
        self.init = map_members(functools.partial(_init, task), execution)
        self._steps = map_members(functools.partial(_steps, task), execution, donate=(0,))
        # By shapes; what does not fit is kept too, so that nobody compiles it again to find out.
        self._compiled: dict[Any, Callable[..., Any] | DoesNotFitError] = {}

    def steps(self, *arguments: Any) -> tuple[State, jax.Array]:
        """(state, constants, resident, dispatch) -> (state, losses [*places, steps])."""
        return self.compiled_steps(*arguments)(*arguments)

    def compiled_steps(self, *arguments: Any, in_flight: int = 1) -> Callable[..., Any]:
        """Returns `steps` compiled for arguments of these shapes, which are only looked at.

        Args:
            arguments: as of `steps`.
            in_flight: dispatches that wait on the devices at most.

        Raises:
            DoesNotFitError: it needs more than `step_bytes`.
        """
        leaves, structure = jax.tree.flatten(arguments)
        shapes = structure, tuple((np.shape(x), np.dtype(x.dtype)) for x in leaves)
        if shapes not in self._compiled:
            compiled = self._steps.lower(*arguments).compile()
            refused = self._refusal(compiled.memory_analysis(), *arguments[2:], in_flight)
            self._compiled[shapes] = refused or compiled
        found = self._compiled[shapes]
        if isinstance(found, DoesNotFitError):
            raise found.with_traceback(None)
        return found

    def _refusal(
        self, used: Any, resident: Any, dispatch: Any, in_flight: int
    ) -> DoesNotFitError | None:
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
            + (in_flight - 1) * waiting
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


# The functions of one member that are mapped. Their third argument is shared by a device's members.


def _init(
    task: Task, key_data: jax.Array, constants: Constants, resident: Resident | None, batch: Any
) -> State:
    representations, targets = fetch(constants, resident, batch)
    if task.draw is not None:
        key = jax.random.wrap_key_data(constants.key)
        representations, _ = task.draw(key, constants.own, representations, targets)
    return init_state(
        task, jax.random.wrap_key_data(key_data), jax.tree.map(as_float32, representations)
    )


def _steps(
    task: Task, state: State, constants: Constants, resident: Resident | None, dispatch: Dispatch
) -> tuple[State, jax.Array]:
    fetch_one = functools.partial(fetch, constants, resident)
    key = jax.random.wrap_key_data(constants.key)
    return take_steps(task, state, constants.own, dispatch, key, fetch_one)
