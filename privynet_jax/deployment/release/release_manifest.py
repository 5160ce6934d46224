"""What a release says of itself: release.json, and the names of the files that belong to it.

The file carries a checksum of itself and is written last, so a folder without one is unfinished.
All numbers in it are needed to read the shards, and none tells where a row came from.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.documents import (
    Count,
    Hex64,
    Positive,
    Rows,
    read_document,
    write_document,
)

MANIFEST, LABELS = "release.json", "labels.npy"
_VERSION = 2
_SHARDS = re.compile(r"representations-\d{5,}\.npy|labels\.npy")
_FILES = re.compile(rf"({_SHARDS.pattern}|release\.json)|\.({_SHARDS.pattern}|release\.json)[.-].+")
# A kill costs a shard at most, so a shard is small in bytes and in pictures. Neither number may
# depend on the images' size, because the manifest tells it.
_SHARD_BYTES, _MOST_ROWS = 2**25, 1024
# Values of one row: as many as 8,000 x 8,000 pixels have in 64 channels.
_MOST_VALUES = 2**32


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that release.json tells."""

    id: Hex64  # shards carry it too, so those of two releases do not mix
    plan_id: Hex64
    rows: Rows
    shape: tuple[Count, Count, Count]  # (h, w, depth) of one row
    dtype: Literal["float16", "float32", "uint8"]  # how they are stored
    num_classes: Count | None  # labels are below it; None where there are no labels
    rows_per_shard: Count
    peaks: tuple[Positive, ...] | None  # as in `coding.Coding`, where bytes are stored

    def __post_init__(self) -> None:
        if math.prod(self.shape) > _MOST_VALUES:
            raise UserError(f"rows of {self.shape} values, more than {_MOST_VALUES}")
        if (self.peaks is None) == (self.dtype == "uint8"):
            raise UserError("peaks go with bytes, and bytes with peaks")
        if self.peaks is not None and len(self.peaks) != self.shape[-1]:
            raise UserError("the peaks are not one positive number per channel")

    def shards(self) -> Iterator[tuple[str, int]]:
        """Yields (file name, rows) of each shard of representations."""
        for index, start in enumerate(range(0, self.rows, self.rows_per_shard)):
            yield shard_name(index), min(self.rows_per_shard, self.rows - start)

    def write(self, folder: Path) -> None:
        """Writes release.json whole."""
        write_document(folder / MANIFEST, self, _VERSION)


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
    again = "copy the release again, or extract it again into a new folder"
    try:
        return read_document(
            folder / MANIFEST, Manifest, _VERSION, again, what="description of a release"
        )
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir() and any(_SHARDS.fullmatch(path.name) for path in folder.iterdir()):
            why = "is incomplete; run extract again, by the same command, to complete it"
        else:
            why = "is no release; give the folder that experiments.extract wrote"
        raise UserError(f"{folder} {why}") from None
