"""One cloud NN for several cuts: a stem for each of them, and all else shared.

A device that moves its cut from picture to picture is answered by one network, whichever cut a
picture was released at. It is trained on the maps of all cuts side by side, as
`attacks.several_cuts.JoinedMaps` holds them.

    network = SharedCloudNN(30, (CutMap(8, (0, 1, 2)), CutMap(4, (3, 4))))
    task = shared_task(network, several=False)
    logits = predicted(task, params, (), joined)  # float32 [N, 2, 30]
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike as DType

from privynet_jax.training.models.networks import WorkingGrid, classified
from privynet_jax.training.tasks import Task, task_of


@dataclasses.dataclass(frozen=True)
class CutMap:
    """Where a cut's own map is among maps side by side: its side, and which channels."""

    side: int
    channels: tuple[int, ...]

    def of(self, x: jax.Array) -> jax.Array:
        """[N, h, w, D], its positions repeated, -> [N, side, side, its channels]."""
        rows, columns = (-(-np.arange(self.side) * x.shape[axis] // self.side) for axis in (1, 2))
        return x[:, rows][:, :, columns][..., np.array(self.channels)]


class SharedCloudNN(nn.Module):
    """Maps of several cuts side by side -> class logits of each; `networks.CloudNN` but for stems.

    Attributes:
        num_classes: length of the logits.
        cuts: whose stems it has.
        image_size, width, dtype: as of `networks.CloudNN`.
    """

    num_classes: int
    cuts: tuple[CutMap, ...]
    image_size: int = 32
    width: int = 64
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> logits float32 [N, cuts, num_classes]."""
        grids = [WorkingGrid(self.width, self.image_size, self.dtype)(c.of(x)) for c in self.cuts]
        logits = classified(jnp.concatenate(grids), self.num_classes, self.dtype)
        return jnp.stack(jnp.split(logits, len(grids)), axis=1)


@functools.cache
def shared_task(network: SharedCloudNN, several: bool) -> Task:
    """Returns its task: the cloud NN's own, of every cut alike; `several` as of `task_of`."""
    task = task_of(network, several)

    def over_cuts(function: Callable[..., Any], logits: jax.Array, labels: jax.Array) -> Any:
        each = [function(logits[:, i], labels) for i in range(len(network.cuts))]
        return jax.tree.map(lambda *values: sum(values) / len(values), *each)

    return dataclasses.replace(
        task,
        loss=functools.partial(over_cuts, task.loss),
        measure=functools.partial(over_cuts, task.measure),
    )
