"""Arrays whose rows are read as they are asked for, so that no copy of all of them is made.

    held_out = ChosenRows(representations, order[held:])
    everybody = JoinedRows(members, others)
    held_out[np.array([[3, 1], [0, 3]])].shape  # (2, 2, h, w, D)

What is underneath has a `shape`, a `dtype`, and rows by a slice or by their numbers: an array, what
reads files (`shards.ShardedRows`), or another view.
"""

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

Blocks = Iterator[tuple[slice, np.ndarray]]
_MOST_REMEMBERED = 2**30  # bytes


class RowView:
    """Rows by slices, or by numbers in an array of any shape; what makes them is a subclass's.

    Attributes:
        shape: of all rows.
        dtype: of the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        """Returns a fresh array [*numbers.shape, ...]."""
        numbers = self._numbers(which)
        return self._read(numbers.ravel()).reshape(*numbers.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows are read as they are asked for: an array of them is a copy")
        return np.asarray(self[:], dtype)

    def select(self, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
        """Yields (where, values) blocks of chosen entries of the last axis, of chosen rows.

        Put together, the blocks are `self[which][..., positions]`; a view that can reads less.
        """
        yield slice(None), self[which][..., positions]

    def _numbers(self, which: Any) -> np.ndarray:
        """What was asked for as int64, none negative."""
        if isinstance(which, slice):
            return np.arange(*which.indices(len(self)))
        numbers = np.asarray(which)
        if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"Expected a slice or integers, got {which!r}")
        numbers = np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"Expected row numbers below {len(self)}, got {which!r}")
        return numbers

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of int64 [n], none negative."""
        raise NotImplementedError


class ChosenRows(RowView):
    """Some of the rows, in any order, and as often as they are named."""

    def __init__(self, stored: Any, rows: np.ndarray) -> None:
        """Keeps which ones: int [n], rows of `stored`."""
        super().__init__((len(rows), *stored.shape[1:]), stored.dtype)
        self._stored, self._rows = stored, rows

    def select(self, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
        """As `RowView.select`, in the blocks of what is underneath."""
        return selected(self._stored, self._rows[which], positions)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return self._stored[self._rows[numbers]]


class RememberedRows(RowView):
    """Rows that take long to make: each is made when it is first read, and stays in memory."""

    def __init__(self, stored: RowView) -> None:
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._made = stored, np.zeros(len(stored), bool)
        self._rows = np.empty(stored.shape, stored.dtype)
        self._lock = threading.Lock()  # training reads ahead in a thread of its own

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        with self._lock:
            missing = np.unique(numbers[~self._made[numbers]])
            self._rows[missing] = self._stored[missing]
            self._made[missing] = True
            return self._rows[numbers]


def remembered(stored: RowView) -> RowView:
    """Returns the same rows, of which each is made once, if memory takes all of them."""
    few = math.prod(stored.shape) * stored.dtype.itemsize <= _MOST_REMEMBERED
    return RememberedRows(stored) if few else stored


class JoinedRows(RowView):
    """Rows of one after those of another, all of one shape, in a type that holds all."""

    def __init__(self, *stored: Any) -> None:
        ends = np.cumsum([len(one) for one in stored])
        dtype = np.result_type(*(one.dtype for one in stored))
        super().__init__((int(ends[-1]), *stored[0].shape[1:]), dtype)
        self._stored, self._ends = stored, ends

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._ends, numbers, side="right")
        for index in np.unique(owners):  # there may be thousands, and few of them asked
            own, stored = owners == index, self._stored[index]
            rows[own] = stored[numbers[own] - (self._ends[index] - len(stored))]
        return rows


def selected(stored: Any, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
    """Yields (where, values) of chosen rows and channels of a view or of an array."""
    if isinstance(stored, RowView):
        return stored.select(which, positions)
    return iter([(slice(None), stored[which][..., positions])])


class ChosenChannels(RowView):
    """Some channels of all rows, then zeros up to a width.

    Attributes:
        stored: [N, h, w, C], an array or another view.
        positions: int [depth], which of the C channels, in which order.
    """

    def __init__(self, stored: Any, positions: np.ndarray, width: int | None = None) -> None:
        """Keeps which channels; the width is their number where None is given."""
        self.stored, self.positions = stored, np.asarray(positions)
        super().__init__((*stored.shape[:-1], width or len(self.positions)), stored.dtype)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        self.read_into(numbers, out)
        return out

    def read_into(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Writes the rows of int [n] to [n, h, w, width]."""
        depth = len(self.positions)
        out[..., depth:] = 0
        for where, values in selected(self.stored, numbers, self.positions):
            out[where, ..., :depth] = values


class ScaledRows(RowView):
    """Rows times a factor for each entry of the last axis."""

    def __init__(self, stored: Any, factors: np.ndarray, dtype: Any = np.float32) -> None:
        """Wraps rows [N, ..., C], an array or what reads them, with float32 [C]."""
        super().__init__(stored.shape, dtype)
        self._stored, self._factors = stored, factors

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return (self._stored[numbers] * self._factors).astype(self.dtype)
