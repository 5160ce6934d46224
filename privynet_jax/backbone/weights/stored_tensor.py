"""A tensor inside a weight file: its shape and type at once, its numbers on demand.

Every reader of weight files returns these, and `conversion` compares shapes before it reads any
number. So a file of the wrong kind is refused without being read, and the classifier of a complete
VGG16, nine tenths of the file, never is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class StoredTensor(NamedTuple):
    """A tensor that has not been read yet."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name of it, or the format's own where NumPy has none
    load: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "StoredTensor":
        """Wraps an array that is in memory already."""
        return cls(array.shape, array.dtype.name, lambda: array)
