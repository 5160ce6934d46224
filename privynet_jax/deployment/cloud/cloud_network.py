"""The cloud NN as the cloud runs it: on representations of any side, of images it knows nothing of.

`cloud_training` trains it and `classifier` keeps it. Both feed it through `BatchedNetwork`, in
batches of one shape spread over all local devices.

    network = network_for((16, 16, 24), num_classes=10, width=64)
    BatchedNetwork(network, (16, 16, 24)).logits(params, release.representations)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.devices import data_parallel, on_cpu
from privynet_jax.training.networks import WORKING_STRIDE, CloudNN, cloud_nn

# A working grid has at least so many positions along a side, where folding allows.
_LEAST_SIDE = 8
# Representations per device and batch, and the bytes that they may take on it as float32.
_CPU_BATCH, _ACCELERATOR_BATCH, _DEVICE_BYTES = 32, 256, 2**25


def nominal_image_size(side: int) -> int:
    """Returns the `image_size` that makes `models.CloudNN` work on the grid that suits a side.

    The cloud does not know the images' size, which is what the network folds by, but any size that
    leads to a good working grid will do: representations are folded by the largest f of 4, 2, 1
    that leaves at least 8 positions, and smaller ones are unfolded to 8 or as near as the
    network's factors 2 and 4 come. For images of 32 x 32 that is the grid of the
    characterisation, at every layer.

    Args:
        side: height and width of a representation, at least 1.
    """
    for folding in (WORKING_STRIDE, WORKING_STRIDE // 2):
        if side % folding == 0 and side // folding >= _LEAST_SIDE:
            return WORKING_STRIDE * (side // folding)
    for unfolding in (1, 2):
        if side * unfolding >= _LEAST_SIDE:
            return WORKING_STRIDE * side * unfolding
    return WORKING_STRIDE * side * 4


def network_for(shape: tuple[int, ...], num_classes: int, width: int) -> CloudNN:
    """Returns the cloud NN for representations of a shape (h, w, d).

    Raises:
        UserError: they are not square.
    """
    if len(shape) != 3 or shape[0] != shape[1] or min(shape) < 1:
        raise UserError(
            f"representations of {times(shape)} values; allowed are squares, height x height x "
            "channels, as releases of this project hold them"
        )
    return cloud_nn(num_classes, nominal_image_size(shape[0]), width)


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as a person writes it."""
    return " x ".join(map(str, shape))


class BatchedNetwork:
    """A cloud NN on any number of representations: batches of one shape, spread over devices."""

    def __init__(self, network: CloudNN, shape: tuple[int, int, int]) -> None:
        """Prepares a network for representations of a shape (h, w, d)."""
        self._shape = shape
        self._split, self._everywhere = data_parallel()
        most = _CPU_BATCH if on_cpu() else _ACCELERATOR_BATCH
        fitting = _DEVICE_BYTES // (4 * int(np.prod(shape)))
        self.batch_size = self._split.num_devices * max(1, min(most, fitting))
        self._apply = jax.jit(lambda params, x: network.apply(params, x.astype(jnp.float32)))

    def logits(
        self,
        params: Any,
        representations: Any,
        progress: Callable[[int], Any] = lambda count: None,
    ) -> np.ndarray:
        """Returns float32 [N, num_classes] of representations [N, h, w, d]; see `Classifier`."""
        params = jax.device_put(params, self._everywhere)
        total, size, found = representations.shape[0], self.batch_size, []
        for start in range(0, max(total, 1), size):
            rows = np.asarray(representations[start : min(start + size, total)])
            # Always one shape: one compilation, and no number depends on how many there are.
            batch = np.zeros((size, *self._shape), rows.dtype)
            batch[: len(rows)] = rows
            found.append(
                np.asarray(self._apply(params, jax.device_put(batch, self._split)))[: len(rows)]
            )
            progress(len(rows))
        return np.concatenate(found)
