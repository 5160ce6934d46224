"""Rows that take long to make, and are asked for more than once: whole blocks are kept."""

import collections
import threading

import numpy as np

from privynet_jax.platform.devices import nbytes
from privynet_jax.platform.rows.row_views import RowView

# Bytes of all rows that are kept in memory.
_SMALL = 2**30


class KeptBlocks(RowView):
    """Rows that are read in whole blocks, of which the last few are kept."""

    def __init__(self, stored: RowView, block: int, most: int | None = None) -> None:
        """Takes the rows, how many make a block, and how many blocks are kept; None: all."""
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._block, self._most = stored, block, most
        self._blocks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()  # training reads ahead in a thread of its own

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        blocks, places = np.divmod(numbers, self._block)
        with self._lock:
            for block in np.unique(blocks):
                rows[blocks == block] = self._kept(int(block))[places[blocks == block]]
        return rows

    def _kept(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            start = block * self._block
            self._blocks[block] = self._stored[start : start + self._block]
            while self._most is not None and len(self._blocks) > self._most:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(block)
        return self._blocks[block]


def kept_if_small(stored: RowView, block: int) -> RowView:
    """Returns the same rows, of which each is made once, in such blocks, if memory takes all."""
    return KeptBlocks(stored, block) if nbytes(stored) <= _SMALL else stored
