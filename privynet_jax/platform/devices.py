"""How work is spread over devices; the only file that names them.

Cells go over all local devices with `jax.pmap`, one or more per device. On CPU a device (one per
core) holds one cell and takes one step per dispatch: XLA's CPU backend runs convolutions far slower
under `vmap` over their weights and inside `scan`. Accelerators are the other way round. `Execution`
says which; the numbers are the same up to rounding. `mapping` maps with it what `training` does.

    execution = default_execution(cells_per_layer=4)
    steps = map_cells(function_of_one_cell, execution)
    outputs = steps(first, second, shared)  # leading axes [devices, cells per device]
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.errors import UserError

_MOST_CELLS_PER_DEVICE = 8
# Shares of a device's memory: for representations that stay there, and for all that training needs
# besides. The rest is left to evaluation, to programs and to fragmentation.
_RESIDENT_SHARE, _STEP_SHARE = 0.5, 0.35
# Bytes of representations that travel to the devices at once.
_CHUNK_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Execution:
    """How cells are spread.

    Attributes:
        devices: what `jax.pmap` runs on.
        cells_per_device: cells that one device trains at once, by `vmap` when more than one.
        steps_per_dispatch: steps of one `lax.scan`; 1 means none.
        resident_bytes: of a device's memory, for representations that stay there; 0 where mini-
            batches are gathered on the host, as on CPU.
        step_bytes: of a device's memory, for a training step of all its cells; None is no limit.
    """

    devices: tuple[jax.Device, ...]
    cells_per_device: int
    steps_per_dispatch: int
    resident_bytes: int = 0
    step_bytes: int | None = None

    @property
    def environment(self) -> str:
        """What computes, for the record: version of JAX and kind of device."""
        return f"jax {jax.__version__} on {self.devices[0].device_kind}"

    @property
    def group_size(self) -> int:
        """Cells that train side by side."""
        return len(self.devices) * self.cells_per_device

    def stack(self, per_cell: Sequence[Any]) -> Any:
        """Stacks one pytree of NumPy arrays per cell to leading axes [devices, cells per device].

        Too few cells are filled up with copies of the last one, so that no number depends on how
        full a group is; `unstack` drops the copies.
        """
        filled = [*per_cell, *[per_cell[-1]] * (self.group_size - len(per_cell))]
        shape = (len(self.devices), self.cells_per_device)
        return jax.tree.map(lambda *x: np.stack(x).reshape(*shape, *np.shape(x[0])), *filled)

    def unstack(self, stacked: Any, count: int) -> Any:
        """[devices, cells per device, ...] -> NumPy [count, ...], without the copies."""
        return jax.tree.map(
            lambda x: np.asarray(x).reshape(self.group_size, *x.shape[2:])[:count], stacked
        )

    def place(self, stacked: Any) -> Any:
        """Returns a pytree [devices, ...] with each row on its device, to be used many times."""
        return _identity(self.devices)(stacked)

    def load(self, stored: Any) -> jax.Array:
        """Returns all rows of an array on every device: [devices, N, ...].

        Args:
            stored: has a `shape`, a `dtype`, and rows by slice; it is read piece by piece.
        """
        total = stored.shape[0]
        count = max(1, min(total, _CHUNK_BYTES // (nbytes(stored) // total)))
        blank = jax.pmap(lambda _: jnp.zeros(stored.shape, stored.dtype), devices=self.devices)
        write = jax.pmap(
            _write_rows, in_axes=(0, None, None), donate_argnums=(0,), devices=self.devices
        )
        loaded = blank(np.zeros(len(self.devices)))
        for start in range(0, total, count):
            # The last piece begins early enough to be of the one size that is compiled.
            begin = min(start, total - count)
            loaded = write(loaded, stored[begin : begin + count], begin)
        return loaded


def default_execution(
    cells_per_layer: int,
    cells_per_device: int = 0,
    steps_per_dispatch: int = 0,
    device_memory_gib: float = 0,
) -> Execution:
    """Returns the execution that suits the backend; positive arguments override.

    Args:
        cells_per_layer: cells that a full layer of the grid has; no more are put side by side.
        cells_per_device: 0 means 1 on CPU, and up to 8 elsewhere.
        steps_per_dispatch: 0 means 1 on CPU and 10 elsewhere.
        device_memory_gib: memory to use of each device, in GiB; 0 means what it says it has. CPU
            devices say nothing: there, steps are not limited and the host gathers mini-batches.
    """
    devices = tuple(jax.local_devices())[:cells_per_layer]
    on_cpu = devices[0].platform == "cpu"
    fitting = -(-cells_per_layer // len(devices))
    # Equal groups: 9 cells on one device become 5 and 4, not 8 and 1 with 7 copies.
    balanced = -(-fitting // -(-fitting // _MOST_CELLS_PER_DEVICE))
    memory = device_memory_gib * 2**30 or (0 if on_cpu else _memory_of(devices[0]))
    return Execution(
        devices=devices,
        cells_per_device=cells_per_device or (1 if on_cpu else balanced),
        steps_per_dispatch=steps_per_dispatch or (1 if on_cpu else 10),
        resident_bytes=int(_RESIDENT_SHARE * memory),
        step_bytes=int(_STEP_SHARE * memory) or None,
    )


def nbytes(array: Any) -> int:
    """Returns the bytes of whatever has a shape and a dtype, most likely on a disk."""
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def at_once(most: int, each: int, limit: int) -> int:
    """Returns how many things to hold at once: at most so many, and at least one.

    Args:
        most: however small they are.
        each: bytes of one.
        limit: bytes of all of them.
    """
    return max(1, min(most, limit // max(1, each)))


def on_cpu() -> bool:
    """Whether the local devices are CPU cores rather than accelerators."""
    return jax.local_devices()[0].platform == "cpu"


def data_parallel(
    most_devices: int | None = None, *, dividing: int | None = None
) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """Returns the shardings of images (split by the first axis) and of parameters (everywhere).

    Args:
        most_devices: use no more; None means all local devices. On CPU too, one device per core
            beats one computation that shares its loops out among the cores.
        dividing: examples per batch; use as many devices as can share them out equally.
    """
    present = jax.local_devices()[:most_devices]
    count = len(present)
    if dividing is not None:
        count = max(n for n in range(1, count + 1) if dividing % n == 0)
    devices = np.asarray(present[:count])
    mesh, spec = jax.sharding.Mesh(devices, ("images",)), jax.sharding.PartitionSpec
    split = jax.sharding.NamedSharding(mesh, spec("images"))
    return split, jax.sharding.NamedSharding(mesh, spec())


def map_cells(
    function: Callable[..., Any], execution: Execution, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Maps a function of one cell over the leading [devices, cells per device] axes.

    Args:
        function: of arrays of one cell; its third argument is shared by the cells of a device.
        execution: the devices, and whether to use `vmap`.
        donate: arguments whose memory the outputs may take.
    """
    per_device = of_one_device(function, execution.cells_per_device)
    return jax.pmap(per_device, devices=execution.devices, donate_argnums=donate)


def of_one_device(function: Callable[..., Any], cells: int) -> Callable[..., Any]:
    """What `map_cells` gives each device: the function over a leading axis of so many cells."""

    def per_device(first: Any, second: Any, shared: Any, *rest: Any) -> Any:
        if cells > 1:
            axes = (0, 0, None, *[0] * len(rest))
            return jax.vmap(function, in_axes=axes)(first, second, shared, *rest)
        first, second, rest = jax.tree.map(lambda x: x[0], (first, second, rest))
        return jax.tree.map(lambda x: x[None], function(first, second, shared, *rest))

    return per_device


@functools.cache  # a new function would be compiled anew
def _identity(devices: tuple[jax.Device, ...]) -> Callable[[Any], Any]:
    return jax.pmap(lambda x: x, devices=devices)


def _write_rows(loaded: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(loaded, rows, start, axis=0)


def _memory_of(device: jax.Device) -> int:
    try:
        return int((device.memory_stats() or {})["bytes_limit"])
    except (KeyError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"the device {device.device_kind} does not say how much memory it has; "
            "give --device_memory_gib"
        ) from error
