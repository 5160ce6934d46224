"""What a release says of itself: release.json, and the names of the files that belong to it.

The file carries a checksum of itself and is written last, so a folder without one is unfinished.
All numbers in it are needed to read the shards, and none tells where a row came from.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.coding import DTYPES
from privynet_jax.platform.digests import read_version, sealed
from privynet_jax.platform.files import write_atomically

MANIFEST, LABELS = "release.json", "labels.npy"
_VERSION = 1
_SHARDS = re.compile(r"representations-\d{5,}\.npy|labels\.npy")
_FILES = re.compile(rf"({_SHARDS.pattern}|release\.json)|\.({_SHARDS.pattern}|release\.json)[.-].+")
# A kill costs a shard at most, so a shard is small in bytes and in pictures. Neither number may
# depend on the images' size, because the manifest tells it.
_SHARD_BYTES, _MOST_ROWS = 2**25, 1024


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that release.json tells."""

    id: str  # 64 hexadecimal digits; shards carry it too, so those of two releases do not mix
    rows: int
    shape: tuple[int, ...]  # (h, w, depth) of one row
    dtype: str  # how they are stored, one of `coding.DTYPES`
    num_classes: int | None  # labels are below it; None where there are no labels
    rows_per_shard: int
    peaks: tuple[float, ...] | None  # as in `coding.Coding`, where bytes are stored

    def shards(self) -> Iterator[tuple[str, int]]:
        """Yields (file name, rows) of each shard of representations."""
        for index, start in enumerate(range(0, self.rows, self.rows_per_shard)):
            yield shard_name(index), min(self.rows_per_shard, self.rows - start)

    def write(self, folder: Path) -> None:
        """Writes release.json whole."""
        write_atomically(folder / MANIFEST, sealed({"version": _VERSION, **vars(self)}))


def shard_name(index: int) -> str:
    """Returns the file name of a shard of representations."""
    return f"representations-{index:05d}.npy"


def rows_per_shard(shape: Sequence[int], dtype: str) -> int:
    """Returns how many rows of a shape (h, w, depth) go into one shard, a power of two."""
    fitting = max(1, _SHARD_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))
    return min(_MOST_ROWS, 2 ** (fitting.bit_length() - 1))


def refuse_foreign_files(folder: Path) -> None:
    """Raises UserError if a folder holds what no release holds, not even an unfinished one."""
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [name for name in names if not _FILES.fullmatch(name)]:
        raise UserError(
            f"{folder} holds {foreign[0]}, which is no part of a release; move it away, or give "
            "another folder"
        )


def read_manifest(folder: Path) -> Manifest:
    """Returns what release.json tells; UserError where that is not what a writer wrote."""
    path = folder / MANIFEST
    again = "copy the release again, or extract it again into a new folder"
    try:
        return _checked(read_version(path, "version", _VERSION, again))
    except FileNotFoundError:
        if folder.is_dir() and any(_SHARDS.fullmatch(path.name) for path in folder.iterdir()):
            why = "is incomplete; run extract again, by the same command, to complete it"
        else:
            why = "is no release; give the folder that experiments.extract wrote"
        raise UserError(f"{folder} {why}") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is inconsistent: {error}; {again}") from None


def _checked(content: Mapping[str, Any]) -> Manifest:
    """Returns the manifest if every field is what a writer could have written."""
    manifest = Manifest(**content)
    shape, peaks, classes = manifest.shape, manifest.peaks, manifest.num_classes
    if not (isinstance(manifest.id, str) and re.fullmatch("[0-9a-f]{64}", manifest.id)):
        raise ValueError("the id is not 64 hexadecimal digits")
    if not (isinstance(shape, list) and len(shape) == 3):
        raise ValueError("the shape is not (h, w, depth)")
    counts = [manifest.rows, manifest.rows_per_shard, *shape, 1 if classes is None else classes]
    if not all(type(count) is int and 0 < count < 2**40 for count in counts):
        raise ValueError("a size is not a positive whole number")
    if manifest.dtype not in DTYPES:
        raise ValueError(f"values of type {manifest.dtype!r}")
    if (peaks is None) == (manifest.dtype == "uint8"):
        raise ValueError("peaks go with bytes, and bytes with peaks")
    if peaks is not None:
        sound = [peak for peak in peaks if isinstance(peak, float) and 0 < peak < math.inf]
        if not len(peaks) == len(sound) == shape[-1]:
            raise ValueError("the peaks are not one positive number per channel")
        peaks = tuple(peaks)
    return dataclasses.replace(manifest, shape=tuple(shape), peaks=peaks)
