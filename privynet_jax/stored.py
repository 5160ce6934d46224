"""A tensor inside a weight file: its shape and type at once, its numbers on demand.

Every reader of weight files hands these to `weights`, which compares shapes before it reads any
number. So a file of the wrong kind is refused without being read, and the classifier of a complete
VGG16, nine tenths of the file, never is.
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError

# What zipfile raises where an archive is damaged, encrypted or of a future version.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, RuntimeError)

_LONGEST_REASON = 300  # some libraries quote whole specifications


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


@contextlib.contextmanager
def damaged_if(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a format library's errors into one line that says which file is damaged.

    Args:
        path: the file.
        kind: what it was taken for.
        errors: the library's exceptions; others, and UserError, pass.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(f"{path} is no readable {kind}: {reason}; fetch or save it again") from None
