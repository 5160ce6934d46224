"""What a trained network answers, and how well, batch by batch; examples go over all devices.

predicted(task, params, constants, representations)  # float32 [N, ...]
measured(task, params, constants, representations, targets)  # {"accuracy": float32 [N]}
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.platform.devices import at_once, data_parallel
from privynet_jax.training.session import current_session
from privynet_jax.training.steps import as_targets, outputs_of
from privynet_jax.training.tasks import Task

_AT_ONCE = 128
# Of representations of one batch: large ones come in smaller batches.
_BYTES_AT_ONCE = 2**26


def predicted(
    task: Task, params: Any, constants: Any, representations: Any, rows: np.ndarray | None = None
) -> np.ndarray:
    """Returns a network's outputs, float32 [n, ...]; images are clipped to [0, 1].

    Args:
        task: what was learnt.
        params: of its network.
        constants: what it is given besides.
        representations: float [N, h, w, D], an array or what reads rows.
        rows: int [n], which of them; all by default.
    """
    return _by_batch(
        functools.partial(_outputs, task), (params, constants), (representations,), rows
    )


def measured(
    task: Task,
    params: Any,
    constants: Any,
    representations: Any,
    targets: Any,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns the task's measures per example, float32 [n] each, as `predicted` its outputs.

    Targets are labels int [N], or images uint8 [N, H, W, 3].
    """
    measures = functools.partial(_measures, task)
    return _by_batch(measures, (params, constants), (representations, targets), rows)


def _by_batch(
    function: Callable[..., Any], fixed: Any, data: Sequence[Any], rows: np.ndarray | None
) -> Any:
    """What a function of fixed arguments and rows of data gives, in batches of one shape."""
    rows = np.arange(data[0].shape[0]) if rows is None else np.asarray(rows)
    if not len(rows):
        raise ValueError("Expected at least one row, got none.")
    split, everywhere = data_parallel()
    fixed, devices, found = jax.device_put(fixed, everywhere), len(split.device_set), []
    each = 4 * math.prod(data[0].shape[1:])
    size = -(-at_once(_AT_ONCE, each, _BYTES_AT_ONCE) // devices) * devices
    for start in range(0, len(rows), size):
        # The last batch repeats its last row up to the one shape that is compiled.
        chosen = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
        batch = jax.device_put([np.asarray(array[chosen]) for array in data], split)
        count = min(size, len(rows) - start)
        found.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], function(*fixed, *batch)))
        current_session().give_way()
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


_outputs = jax.jit(outputs_of, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _measures(task: Task, params: Any, constants: Any, x: jax.Array, targets: jax.Array) -> Any:
    return task.measure(outputs_of(task, params, constants, x), as_targets(targets))
