"""A layer of the published network on images of the attacker's own: nobody is asked for that.

public = PublicLayer(LayerRows(layer, images))
public.statistics(images_per_chunk=32)  # of all channels
public.on(others)  # float32 [n, h, w, C]
"""

import copy
import itertools
from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.base import Representing, as_partial, compiled, scaled
from privynet_jax.attacks.public.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    chunks_of,
)
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import data_parallel
from privynet_jax.platform.rows.row_views import RowView

# Of its own images, an attacker takes statistics over so many: more changed nothing.
_MOST_STATISTICS = 1024


class LayerRows(RowView):
    """Channels of a layer on images uint8 [N, H, W, 3]: it runs when rows are read."""

    def __init__(
        self,
        layer: Representing,
        images: Any,
        rms: np.ndarray | None = None,
    ) -> None:
        """Keeps both; images may be a view. Channels are divided by their `rms`, float [C]."""
        self._split, everywhere = data_parallel()
        whole = as_partial(layer) if rms is None else scaled(layer, 1 / rms)
        self._run, self._images = compiled(jax.device_put(whole, everywhere)), images
        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
        _, *shape = jax.eval_shape(whole, one).shape
        super().__init__((len(images), *shape), np.float32)
        self._size = images_per_batch(images.shape[1]) * len(self._split.device_set)

    def on(self, images: np.ndarray) -> "LayerRows":
        """Returns the same of other images of the size; it is compiled once for all of them."""
        other = copy.copy(self)
        other._images, other.shape = images, (len(images), *self.shape[1:])
        return other

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), *self.shape[1:]), np.float32)
        for start in range(0, len(numbers), self._size):
            batch = as_float(self._images[numbers[start : start + self._size]])
            # One shape for all batches, so that the layer is compiled once.
            filled = np.pad(batch, ((0, self._size - len(batch)), *[(0, 0)] * 3))
            made = self._run(jax.device_put(filled, self._split))
            rows[start : start + self._size] = np.asarray(made)[: len(batch)]
        return rows


class PublicLayer:
    """A layer of the network on images that the attacker owns."""

    def __init__(self, rows: LayerRows) -> None:
        """Keeps all channels [N, h, w, C], of any scale."""
        self.count, *self.shape = rows.shape
        self._rows = rows
        self._statistics: dict[int, ChannelStatistics] = {}

    def statistics(self, images_per_chunk: int) -> ChannelStatistics:
        """Returns the statistics of all channels, taken once per size of chunks."""
        if images_per_chunk not in self._statistics:
            most = max(_MOST_STATISTICS, 4 * images_per_chunk) // images_per_chunk
            chunks = chunks_of(self._rows, images_per_chunk)
            self._statistics[images_per_chunk] = channel_statistics(itertools.islice(chunks, most))
        return self._statistics[images_per_chunk]

    def first(self, count: int) -> np.ndarray:
        """Returns all channels of the first so many images, float32 [n, h, w, C]."""
        return self._rows[:count]

    def on(self, images: np.ndarray) -> np.ndarray:
        """Returns all channels of other images, uint8 [n, H, W, 3]: float32 [n, h, w, C]."""
        return self._rows.on(images)[:]


def released_channels(x: np.ndarray) -> int:
    """How many channels are released: those behind them, always zero, only fill up the width."""
    alive = np.flatnonzero(np.any(x, axis=(0, 1, 2)))
    return int(alive[-1]) + 1 if len(alive) else x.shape[-1]


def rms_of(x: np.ndarray) -> np.ndarray:
    """Root mean square, float64 [C], never zero."""
    squares = np.einsum("nhwc,nhwc->c", x, x, dtype=np.float64)
    return np.maximum(np.sqrt(squares / np.prod(x.shape[:3])), 1e-6)
