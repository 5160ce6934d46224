"""What a task sees at once: gathered by the host, or picked from what a device already holds.

A batch is a pair (representations, targets), or, where a layer's representations are resident on
the devices, just the rows of it; `fetch` makes the pair of either. Pure functions of one cell, that
`execution` maps; `inputs` prepares their arguments.

    representations, targets = fetch(constants, resident, batch)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class CellConstants(NamedTuple):
    """What a cell brings to every step, and training does not change.

    Attributes:
        extras: the task's own pytree (`training.Task`).
        channels: int32 [width], positions of its channels among the stored ones, then zeros.
        released: bool [width], false where a channel only fills up the width.
    """

    extras: Any
    channels: jax.Array
    released: jax.Array


class Resident(NamedTuple):
    """A part of the data in a device's memory, shared by the device's cells.

    Attributes:
        representations: [N, h, w, C], all stored channels of the layer.
        targets: labels int [N], or images uint8 [N, H, W, 3].
    """

    representations: jax.Array
    targets: jax.Array


def fetch(constants: CellConstants, resident: Resident | None, batch: Any) -> tuple[Any, Any]:
    """Returns (representations [B, h, w, width], targets [B, ...]) of one batch.

    Args:
        constants: the cell's.
        resident: the part that it learns from, or None where the host gathers.
        batch: int [B], rows of the resident part; or what is returned, where the host gathers.
    """
    if resident is None:
        return batch
    chosen = jnp.take(resident.representations[batch], constants.channels, axis=-1)
    return jnp.where(constants.released, chosen, 0), resident.targets[batch]
