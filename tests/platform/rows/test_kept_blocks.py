"""Blocks of rows are made once while they are kept."""

import numpy as np

from privynet_jax.platform.rows import kept_blocks
from privynet_jax.platform.rows.kept_blocks import KeptBlocks, kept_if_small
from privynet_jax.platform.rows.row_views import RowView


class Counted(RowView):
    """Row numbers themselves, and how many were read."""

    def __init__(self):
        super().__init__((100, 1), np.int64)
        self.count = 0

    def _read(self, numbers):
        self.count += len(numbers)
        return numbers[:, None]


def test_blocks_are_made_once_while_they_are_kept():
    counted = Counted()
    kept = KeptBlocks(counted, 8, most=4)
    rows = np.array([3, 9, 3, 99, 15])
    assert kept[rows].ravel().tolist() == rows.tolist()
    assert counted.count == 8 + 8 + 4  # the last block is shorter
    kept[rows[:2]]
    assert counted.count == 20
    kept[16:48]  # four others
    kept[rows[:1]]
    assert counted.count == 20 + 32 + 8


def test_all_blocks_are_kept_where_memory_takes_them(monkeypatch):
    counted = Counted()
    kept = kept_if_small(counted, 8)
    for _ in range(2):
        assert kept[::-1].ravel().tolist() == [*range(99, -1, -1)]
    assert counted.count == 100
    monkeypatch.setattr(kept_blocks, "_SMALL", 99 * 8)
    assert kept_if_small(counted, 8) is counted
