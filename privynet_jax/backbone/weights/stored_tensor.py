"""A tensor inside a weight file: its shape and type at once, its numbers on demand.

Every reader of weight files hands these to `weights`, which compares shapes before it reads any
number. So a file of the wrong kind is refused without being read, and the classifier of a complete
VGG16, nine tenths of the file, never is.
"""

import dataclasses
import zipfile
from collections.abc import Callable

import numpy as np

# What zipfile raises where an archive is damaged, encrypted or of a future version.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet.

    Attributes:
        shape: its axes' lengths in the file.
        dtype: NumPy's name of its type, or the format's own where NumPy has none.
        load: reads it.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "StoredTensor":
        """Wraps an array that is in memory already."""
        return cls(array.shape, array.dtype.name, lambda: array)
