"""How work is spread over devices; the only file that names them.

Members of a training go over all local devices with `jax.pmap`, one or more per device. On CPU a
device (one per core) holds one member and takes one step per dispatch: XLA's CPU backend runs
convolutions far slower under `vmap` over their weights and inside `scan`. Accelerators are the
other way round. A single member spreads the examples of each mini-batch instead. `Execution` says
which; the numbers are the same up to rounding. `training.mapping` maps with it what
`training.steps` does.

    execution = execution_for(members=4, batch_size=16)
    steps = map_members(function_of_one_member, execution)
    outputs = steps(first, second, shared)  # leading axes [devices, members per device]
"""

import ctypes
import dataclasses
import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_MOST_CELLS_PER_DEVICE = 8
# Shares of a device's memory: for representations that stay there, and for all that training needs
# besides. The rest is left to evaluation, to programs and to fragmentation.
_RESIDENT_SHARE, _STEP_SHARE = 0.5, 0.35
# Bytes of representations that travel to the devices at once.
_CHUNK_BYTES = 2**26
# glibc's mallopt, as malloc.h numbers its parameters: a program's memory, up to so many bytes, is
# not given back between two calls, and threads share one heap. Fetching 4 KiB anew takes 1.6 us.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ALLOCATION = (
    (_M_MMAP_THRESHOLD, 2**25),  # the most before glibc 2.35, which refuses what is larger
    (_M_MMAP_THRESHOLD, 2**26),
    (_M_TRIM_THRESHOLD, 2**28),
    (_M_ARENA_MAX, 1),
)


@dataclasses.dataclass(frozen=True)
class Spread:
    """What a user may say about it; zeros let the backend decide."""

    cells_per_device: int = 0  # members at once; 0 means 1 on CPU, and up to 8 elsewhere
    steps_per_dispatch: int = 0  # 0 means 1 on CPU and 10 elsewhere
    # To use of each device, in GiB; 0 means what it says it has. CPU devices say nothing: there,
    # steps are not limited and the host gathers mini-batches.
    device_memory_gib: float = 0.0


@dataclasses.dataclass(frozen=True)
class Execution:
    """How members are spread."""

    devices: tuple[jax.Device, ...]
    cells_per_device: int = 1  # at once, by `vmap` when more than one
    steps_per_dispatch: int = 1  # of one `lax.scan`; 1 means none
    # Of a device's memory, for representations that stay there; 0 where mini-batches are gathered
    # on the host, as on CPU.
    resident_bytes: int = 0
    step_bytes: int | None = None  # for a training step of all of a device's members, at most
    shares_examples: bool = False  # one member at a time, dealt out to all devices

    @property
    def places(self) -> tuple[int, int]:
        """The leading axes of whatever belongs to members: devices, and members of each."""
        return (1 if self.shares_examples else len(self.devices), self.cells_per_device)

    @property
    def group_size(self) -> int:
        """Members that train side by side."""
        return math.prod(self.places)

    def reduced(self) -> "Execution | None":
        """Returns what needs less memory: fewer steps at once, then fewer members; else None."""
        if self.steps_per_dispatch > 1:
            return dataclasses.replace(self, steps_per_dispatch=-(-self.steps_per_dispatch // 2))
        if self.cells_per_device > 1:
            return dataclasses.replace(self, cells_per_device=-(-self.cells_per_device // 2))
        return None

    def stack(self, per_member: Sequence[Any]) -> Any:
        """Stacks one pytree of NumPy arrays per member to leading axes `places`.

        Too few members are filled up with copies of the last one, so that no number depends on how
        full a group is; `unstack` drops the copies.
        """
        filled = [*per_member, *[per_member[-1]] * (self.group_size - len(per_member))]
        return jax.tree.map(lambda *x: np.stack(x).reshape(*self.places, *np.shape(x[0])), *filled)

    def unstack(self, stacked: Any, count: int) -> list[Any]:
        """Returns one pytree of NumPy arrays per member, without the copies."""
        flat = jax.tree.map(
            lambda x: np.asarray(x).reshape(self.group_size, *x.shape[2:])[:count], stacked
        )
        return [jax.tree.map(lambda x, i=i: x[i], flat) for i in range(count)]

    def place(self, stacked: Any) -> Any:
        """Returns a pytree [*places, ...] on its devices, to be used many times."""
        if self.shares_examples:
            return jax.device_put(stacked, _sharding(self.devices))
        return _identity(self.devices)(stacked)

    def place_batches(self, stacked: Any, axis: int) -> Any:
        """Returns mini-batches [*places, ...], to be used once; `axis` is that of examples."""
        if not self.shares_examples:
            return stacked  # pmap's own
        return jax.device_put(stacked, _sharding(self.devices, *[None] * axis, "images"))

    def load(self, stored: Any) -> jax.Array:
        """Returns all rows on every device, [devices, N, ...]; `stored` is read piece by piece."""
        if self.shares_examples:
            return jax.device_put(stored[:][None], _sharding(self.devices))
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


def execution_for(
    members: int, batch_size: int, spread: Spread = Spread(), one_per_device: bool = False
) -> Execution:
    """Returns the execution that suits the backend, for so many members that are to be trained.

    A single one has the `batch_size` examples of its mini-batches spread. `one_per_device`,
    whatever their number, lets rounds of fewer and fewer members share a program; too few for the
    devices go one after the other, each with its examples spread.
    """
    _warn_of_idle_cores()
    present = tuple(jax.local_devices())
    if one_per_device:
        spread = dataclasses.replace(spread, cells_per_device=1)
        members = members if members >= len(present) else 1
    memory = spread.device_memory_gib * 2**30 or (0 if on_cpu() else _memory_of(present[0]))
    devices, cells = present[:members], 1
    if members == 1:
        devices = present[: _most_dividing(batch_size, len(present))]
    elif not on_cpu() or spread.cells_per_device:
        fitting = -(-members // len(devices))
        # Equal groups: 9 members on one device become 5 and 4, not 8 and 1 with 7 copies.
        balanced = -(-fitting // -(-fitting // _MOST_CELLS_PER_DEVICE))
        cells = spread.cells_per_device or balanced
    return Execution(
        devices=devices,
        cells_per_device=cells,
        steps_per_dispatch=spread.steps_per_dispatch or (1 if on_cpu() else 10),
        resident_bytes=int(_RESIDENT_SHARE * memory),
        step_bytes=int(_STEP_SHARE * memory) or None,
        # On one device there is nothing to share, and numbers are to the bit those beside others.
        shares_examples=members == 1 and len(devices) > 1,
    )


def usable_cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def use_cpu_devices(count: int) -> None:
    """Gives JAX so many CPU devices, and their memory a heap that is kept, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", count)
    if usable_cores() == 1:  # a callback waits for its arguments, which XLA's one thread would copy
        os.environ.setdefault("NPROC", "2")  # https://github.com/jax-ml/jax/issues/24255
    # Other systems' C libraries have other rules.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for parameter, value in _ALLOCATION if mallopt else ():
        mallopt(parameter, value)


@functools.cache  # once is enough
def _warn_of_idle_cores() -> None:
    # Whoever set their number, as all commands do, knows; but few know that 1 is the default.
    unset = jax.config.jax_num_cpu_devices < 1 and len(jax.local_devices()) == 1
    if on_cpu() and unset and (cores := usable_cores()) > 1:
        _LOG.warning(
            "networks train on one CPU device, not on all %d cores; before anything else uses JAX, "
            'call jax.config.update("jax_num_cpu_devices", %d)',
            cores,
            cores,
        )


def environment() -> str:
    """Returns what computes, for the record: version of JAX and kind of device."""
    return f"jax {jax.__version__} on {jax.local_devices()[0].device_kind}"


def _most_dividing(count: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if count % n == 0)


def nbytes(array: Any) -> int:
    """Returns the bytes of whatever has a shape and a dtype, most likely on a disk."""
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def at_once(most: int, each: int, limit: int) -> int:
    """Returns how many things to hold at once: 1 to `most`, of so many bytes each and in all."""
    return max(1, min(most, limit // max(1, each)))


def on_cpu() -> bool:
    """Whether the local devices are CPU cores rather than accelerators."""
    return jax.local_devices()[0].platform == "cpu"


def data_parallel(
    dividing: int | None = None,
) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """Returns the shardings of images (split by the first axis) and of parameters (everywhere).

    Over all local devices, or as many as can share out equally the images of a batch that is given.
    On CPU too, one device per core beats one computation that shares out its loops among the cores.
    """
    devices = jax.local_devices()
    if dividing is not None:
        devices = devices[: _most_dividing(dividing, len(devices))]
    return _sharding(devices, "images"), _sharding(devices)


def each_for_itself(function: Callable[..., Any], images: jax.sharding.NamedSharding) -> Any:
    """Jits a function of (parameters, images) for `data_parallel`: each device has its own images.

    Outputs have a leading axis of images. One program for all would share out a loop's every turn.
    """
    specs = (jax.sharding.PartitionSpec(), images.spec)
    return jax.jit(jax.shard_map(function, mesh=images.mesh, in_specs=specs, out_specs=specs[1]))


def map_members(
    function: Callable[..., Any], execution: Execution, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Maps a function of arrays of one member over the leading axes `Execution.places`.

    Its third argument is shared by the members of a device. Outputs may take the memory of the
    arguments to `donate`.
    """
    per_device = of_one_device(function, execution.cells_per_device)
    if not execution.shares_examples:
        return jax.pmap(per_device, devices=execution.devices, donate_argnums=donate)

    def alone(*arguments: Any) -> Any:
        outputs = per_device(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: x[None], outputs)

    return jax.jit(alone, donate_argnums=donate)


def of_one_device(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """What `map_members` gives each device: the function over a leading axis of members."""

    def per_device(first: Any, second: Any, shared: Any, *rest: Any) -> Any:
        if members > 1:
            axes = (0, 0, None, *[0] * len(rest))
            return jax.vmap(function, in_axes=axes)(first, second, shared, *rest)
        first, second, rest = jax.tree.map(lambda x: x[0], (first, second, rest))
        return jax.tree.map(lambda x: x[None], function(first, second, shared, *rest))

    return per_device


@functools.cache  # a new function would be compiled anew
def _identity(devices: tuple[jax.Device, ...]) -> Callable[[Any], Any]:
    return jax.pmap(lambda x: x, devices=devices)


def _sharding(devices: Sequence[jax.Device], *axes: str | None) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(devices), ("images",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


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
