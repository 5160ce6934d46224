"""A backbone's pass over images: how strong each channel is, then features in their stored form.

Images go through the network in batches of one shape, so that one compilation serves and no number
depends on what was computed before.

    codings = calibrate(weights, parts, union, "float16")
    stored = FeaturePass(weights, parts, union, codings).run(part.images[:1024])  # {2: [...], ...}
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.features.layer_features import CALIBRATION_IMAGES, extractor
from privynet_jax.backbone.split import Params, with_tiles
from privynet_jax.backbone.topology import Topology, all_channels
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.devices import data_parallel, each_for_itself, on_cpu
from privynet_jax.platform.rows.coding import Coding, all_finite, peaks_of

# Channels that are almost always zero are not blown up by more than this, against their layer.
LEAST_RELATIVE_RMS = 0.01
# Per device, on CPU and on accelerators: as many images as suit it at 32 x 32 pixels, and at larger
# sizes as many as keep the first layer, 64 channels of float32, within so many bytes.
_CPU_BATCH, _CPU_BYTES = 32, 2**23
_ACCELERATOR_BATCH, _ACCELERATOR_BYTES = 256, 2**28


def images_per_batch(image_size: int) -> int:
    """Returns how many images go through a backbone at once on each device, a power of two."""
    most, room = (_CPU_BATCH, _CPU_BYTES) if on_cpu() else (_ACCELERATOR_BATCH, _ACCELERATOR_BYTES)
    fitting = max(1, room // (image_size**2 * 64 * 4))
    return min(most, 2 ** (fitting.bit_length() - 1))


def placed(params: Params) -> tuple[Any, Params]:
    """Returns the sharding of images, over all devices, and parameters there, ready for a pass."""
    split, everywhere = data_parallel()
    params = jax.device_put(params, everywhere)
    if on_cpu():
        params = jax.jit(with_tiles, out_shardings=everywhere)(params)
    return split, params


def calibrate(
    weights: PretrainedWeights, parts: Parts, union: Mapping[int, Sequence[int]], dtype: str
) -> dict[int, Coding]:
    """Returns layer -> coding of its channels in `union`, by the first auxiliary images."""
    measured = _measured(weights, parts.auxiliary.images[:CALIBRATION_IMAGES], union, parts.name)
    return {layer: Coding(dtype, *both) for layer, both in measured.items()}


def _measured(
    weights: PretrainedWeights, images: np.ndarray, union: Mapping[int, Sequence[int]], name: str
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Layer -> scales and peaks of its channels over the images."""
    squares: dict[int, Any] = dict.fromkeys(union, 0.0)
    largest: dict[int, Any] = dict.fromkeys(union, 0.0)
    run = BatchedPass(weights, union, images.shape[1], extractor(weights.backbone, union))
    for rows, features in run(images):
        for layer, values in features.items():
            real = np.asarray(values)[: rows.stop - rows.start]
            squares[layer] = squares[layer] + np.square(real, dtype=np.float64).sum(axis=0)
            largest[layer] = np.maximum(largest[layer], real.max(axis=(0, 1, 2)))
    measured = {}
    for layer, total in squares.items():
        rms = np.sqrt(total.mean(axis=(0, 1)) / len(images))
        check_finite(np.isfinite(rms).all(), weights, name)
        scales = scales_of(rms)
        measured[layer] = scales, peaks_of(largest[layer] * scales)
    return measured


def scales_of(rms: np.ndarray) -> np.ndarray:
    """Returns float32 [C], one over the root mean square of each channel of a layer, limited."""
    floor = max(LEAST_RELATIVE_RMS * rms.mean(), np.finfo(np.float32).tiny)
    return np.float32(1 / np.maximum(rms, floor))


class BatchedPass:
    """A function of (params, float32 images), applied batch by batch on all devices."""

    def __init__(
        self,
        weights: PretrainedWeights,
        layers: Collection[int],
        image_size: int,
        function: Callable[[Any, jax.Array], Any],
    ) -> None:
        """Prepares it; the function is such as `extractor` returns for these layers."""
        convolutions = weights.backbone.convolutions(max(layers))
        names = ("preprocessing", *(layer.name for layer in convolutions))
        self._split, self._params = placed({name: weights.params[name] for name in names})
        self._batch_size = images_per_batch(image_size) * len(self._split.device_set)
        self._function = each_for_itself(function, self._split)

    def __call__(self, images: np.ndarray) -> Iterator[tuple[slice, Any]]:
        """Yields (rows, result) for images uint8 [N, H, W, 3]; the devices are one batch ahead.

        The last batch is filled up: its result has more rows.
        """
        waiting = None
        for start in range(0, len(images), self._batch_size):
            batch = as_float(images[start : start + self._batch_size])
            rows, missing = slice(start, start + len(batch)), self._batch_size - len(batch)
            batch = np.pad(batch, ((0, missing), *[(0, 0)] * 3))
            result = self._function(self._params, jax.device_put(batch, self._split))
            if waiting is not None:
                yield waiting
            waiting = rows, result
        if waiting is not None:
            yield waiting


class FeaturePass:
    """A backbone up to the deepest of some layers, giving all of them in their stored form."""

    def __init__(
        self,
        weights: PretrainedWeights,
        parts: Parts,
        union: Mapping[int, Sequence[int]],
        codings: Mapping[int, Coding],
    ) -> None:
        """Takes layer -> channels, and layer -> how they are stored."""
        encoded = extractor(weights.backbone, union, lambda m, x: codings[m].encode(x))
        self._weights, self._name = weights, parts.name
        self._run = BatchedPass(weights, union, parts.image_size, encoded)

    def run(
        self, images: np.ndarray, told: Callable[[int], Any] = lambda count: None
    ) -> dict[int, np.ndarray]:
        """Returns layer -> stored features [N, h, w, C] of images uint8 [N, H, W, 3].

        `told` is called with the number of images done since the last call. UserError: the network
        gives values that are not finite.
        """
        results: dict[int, np.ndarray] = {}
        for rows, stored in self._run(images):
            for layer, array in stored.items():
                values = np.asarray(array)[: rows.stop - rows.start]
                check_finite(all_finite(values), self._weights, self._name)
                if layer not in results:
                    results[layer] = np.empty((len(images), *values.shape[1:]), values.dtype)
                results[layer][rows] = values
            told(rows.stop - rows.start)
        return results


def check_finite(finite: Any, weights: PretrainedWeights, name: str) -> None:
    """Raises UserError unless what the network gave was finite."""
    if not finite:
        raise UserError(
            f"the weights {weights.source} give values that are not finite on {name}; check that "
            f"they belong to {weights.backbone.title} and that the images are in [0, 1]"
        )


def normalisation(
    weights: PretrainedWeights, images: np.ndarray, topology: Topology
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scales and peaks of the released channels over uint8 [N, H, W, 3], float32 [depth].

    They are those of a `Coding`. UserError: there is no image, or the network gives values that
    are not finite.
    """
    if not len(images):
        raise UserError("the sample is empty; give at least one image to normalise channels by")
    # Of the whole layer: released channels that all happen to be silent have no scale of their own.
    union = all_channels([topology.num_layers], weights.backbone)
    scales, peaks = _measured(weights, images, union, "the sample")[topology.num_layers]
    chosen = list(topology.channels)
    return scales[chosen], peaks[chosen]
