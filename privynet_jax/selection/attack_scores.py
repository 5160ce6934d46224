"""How well a layer's amortised attacker rebuilds images from any subset of its channels.

`subset_scores` has the linear attack, which soon finds nothing left to rebuild where a trained
attacker still does; here is one of those, without training it per subset.

    attack = AmortisedPsnr(data, task, params, width=16)
    attack([np.array([0, 3, 5])])  # float64 [1], dB
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.estimates.layer_networks import LayerData
from privynet_jax.estimates.subsets import Subset, prepare, stacked
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.devices import data_parallel
from privynet_jax.training.steps import as_targets, outputs_of
from privynet_jax.training.tasks import Task

# Target images that are attacked, spread over classes: the attacker learnt from auxiliary ones.
_ATTACKED = 48
# Subsets scored at once by each device.
_AT_ONCE = 8


class AmortisedPsnr:
    """Mean PSNR of a layer's amortised attacker over some target images."""

    def __init__(self, data: LayerData, task: Task, params: Any, width: int) -> None:
        """Puts on the devices what all subsets share.

        Args:
            data: of the layer.
            task: the attacker's; see `amortised.attacker_task`.
            params: its parameters.
            width: to which subsets are padded; at least the depths that are asked for.
        """
        self._sums, self._width = data.sums, width
        self._split, everywhere = data_parallel()
        target = data.parts.target
        rows = np.sort(spread_over_classes(target.labels, _ATTACKED))
        released = np.float32(data.layer.parts["target"][rows])
        shared = (params, released, target.images[rows])
        self._shared = jax.device_put(shared, everywhere)
        of_one = functools.partial(_psnr_db, task)
        self._score = jax.jit(jax.vmap(of_one, in_axes=(0, None, None, None)))

    def __call__(self, subsets: Sequence[np.ndarray]) -> np.ndarray:
        """Returns float64 [N], in dB, for subsets int [depth] of positions among the channels."""
        size = _AT_ONCE * len(self._split.device_set)
        found = []
        for start in range(0, len(subsets), size):
            group = [
                prepare(self._sums, mine, self._width, quickly=True)
                for mine in subsets[start : start + size]
            ]
            # One shape is compiled.
            filled = stacked([*group, *group[-1:] * (size - len(group))])
            values = self._score(jax.device_put(filled, self._split), *self._shared)
            found.append(np.asarray(values, np.float64)[: len(group)])
        return np.concatenate(found)


def _psnr_db(
    task: Task, subset: Subset, params: Any, released: jax.Array, images: jax.Array
) -> jax.Array:
    outputs = outputs_of(task, params, subset, released)
    return task.measure(outputs, as_targets(images))["psnr_db"].mean()
