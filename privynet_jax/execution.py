"""How work is spread over devices; the only file that names them.

Cells go over all local devices with `jax.pmap`, one or more per device. On CPU a device (one per
core) holds one cell and takes one step per dispatch: XLA's CPU backend runs convolutions far slower
under `vmap` over their weights and inside `scan`. Accelerators are the other way round. `Execution`
says which; the numbers are the same up to rounding. `training` gives the functions, `group` calls.

    execution = default_execution(cells_per_layer=4)
    mapped = MappedTask(task, execution)
    state = mapped.init(key_data, representations)  # leading axes [devices, cells per device]
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from privynet_jax import training
from privynet_jax.training import State, Task

_MOST_CELLS_PER_DEVICE = 8


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
    def environment(self) -> str:
        """What computes, for the record: version of JAX and kind of device."""
        return f"jax {jax.__version__} on {self.devices[0].device_kind}"

    @property
    def group_size(self) -> int:
        """Cells that train side by side."""
        return len(self.devices) * self.cells_per_device


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
    # Equal groups: 9 cells on one device become 5 and 4, not 8 and 1 with 7 copies.
    balanced = -(-fitting // -(-fitting // _MOST_CELLS_PER_DEVICE))
    return Execution(
        devices=devices,
        cells_per_device=cells_per_device or (1 if on_cpu else balanced),
        steps_per_dispatch=steps_per_dispatch or (1 if on_cpu else 10),
    )


def data_parallel(
    *, every_cpu_device: bool = False
) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """Returns the shardings of images (split by the first axis) and of parameters (everywhere).

    On CPU that is one device: a single computation uses all cores there.

    Args:
        every_cpu_device: use all of them on CPU too.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu" and not every_cpu_device:
        devices = devices[:1]
    mesh = jax.sharding.Mesh(np.asarray(devices), ("images",))
    spec = jax.sharding.PartitionSpec
    return jax.sharding.NamedSharding(mesh, spec("images")), jax.sharding.NamedSharding(
        mesh, spec()
    )


class MappedTask:
    """A task's functions, mapped over cells; arrays are [devices, cells per device, ...]."""

    def __init__(self, task: Task, execution: Execution) -> None:
        self.task = task
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
