"""What a trained network answers, and how well, batch by batch; examples go over all devices.

predicted(task, params, constants, representations)  # float32 [N, ...]
measured(task, params, constants, representations, targets)  # {"accuracy": float32 [N]}
"""

import functools
import math
from collections.abc import Callable, Iterator
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
    run = _Batches(_prediction(task), params, constants)
    return np.concatenate([np.asarray(x)[:count] for x, count, _ in run(representations, rows)])


def measured(
    task: Task,
    params: Any,
    constants: Any,
    representations: Any,
    targets: Any,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns the task's measures per example, float32 [n] each; arguments as of `predicted`.

    Args:
        task: what was learnt.
        params: of its network.
        constants: what it is given besides.
        representations: float [N, h, w, D].
        targets: labels int [N], or images uint8 [N, H, W, 3].
        rows: int [n]; all by default.
    """
    run = _Batches(_measures(task), params, constants, targets)
    found = [
        {name: np.asarray(x)[:count] for name, x in values.items()}
        for values, count, _ in run(representations, rows)
    ]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


class _Batches:
    """A function over rows, in batches of one compiled shape."""

    def __init__(
        self, function: Callable[..., Any], params: Any, constants: Any, targets: Any = None
    ) -> None:
        self._function, self._targets = function, targets
        self._split, everywhere = data_parallel()
        self._fixed = jax.device_put((params, constants), everywhere)

    def __call__(
        self, representations: Any, rows: np.ndarray | None
    ) -> Iterator[tuple[Any, int, np.ndarray]]:
        """Yields (what the function gives, how much of it counts, its rows)."""
        rows = np.arange(representations.shape[0]) if rows is None else np.asarray(rows)
        each = 4 * math.prod(representations.shape[1:])
        devices = len(self._split.device_set)
        size = -(-at_once(_AT_ONCE, each, _BYTES_AT_ONCE) // devices) * devices
        if not len(rows):
            raise ValueError("Expected at least one row, got none.")
        for start in range(0, len(rows), size):
            # The last batch repeats its last row up to the one shape that is compiled.
            chosen = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
            batch = [representations[chosen]]
            if self._targets is not None:
                batch.append(np.asarray(self._targets[chosen]))
            values = self._function(*self._fixed, *jax.device_put(batch, self._split))
            yield values, min(size, len(rows) - start), chosen
            current_session().give_way()


@functools.lru_cache(maxsize=64)
def _prediction(task: Task) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(outputs_of, task))


@functools.lru_cache(maxsize=64)
def _measures(task: Task) -> Callable[..., dict[str, jax.Array]]:
    def measures(params: Any, constants: Any, x: jax.Array, targets: jax.Array) -> Any:
        return task.measure(outputs_of(task, params, constants, x), as_targets(targets))

    return jax.jit(measures)
