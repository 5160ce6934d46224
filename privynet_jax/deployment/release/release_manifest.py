"""What a release says of itself: release.json.

The file carries a checksum of itself and is written last, so a folder without one is unfinished.
All numbers in it are needed to read the shards, and none tells where a row came from.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from privynet_jax.deployment.release.release_files import (
    LABELS,
    MANIFEST,
    ReleaseFiles,
    shard_name,
)
from privynet_jax.deployment.trust.signatures import ANYBODY, Trust
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import (
    Count,
    Hex64,
    Positive,
    Rows,
    Text,
    read_document,
    write_document,
)

_VERSION = 4
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
    classes: tuple[Hex64, ...] | None  # ids, ascending, by label; None where there are no labels
    several: bool  # whether a row may have several of them, or none
    rows_per_shard: Count
    peaks: tuple[Positive, ...] | None  # as in `coding.Coding`, where bytes are stored
    digests: dict[Text, Hex64]  # what the other files end in, by their names

    def __post_init__(self) -> None:
        if math.prod(self.shape) > _MOST_VALUES:
            raise UserError(f"rows of {self.shape} values, more than {_MOST_VALUES}")
        if (self.peaks is None) == (self.dtype == "uint8"):
            raise UserError("peaks go with bytes, and bytes with peaks")
        if self.peaks is not None and len(self.peaks) != self.shape[-1]:
            raise UserError("the peaks are not one positive number per channel")
        if self.classes is not None and list(self.classes) != sorted({*self.classes}):
            raise UserError("the classes are not in the order of their ids, each once")
        if self.several and not self.classes:
            raise UserError("several labels for each row, and no classes")
        # Counted first, so that absurd numbers of rows end here.
        shards = -(-self.rows // self.rows_per_shard) + (self.classes is not None)
        if len(self.digests) != shards or self.digests.keys() != self.files():
            raise UserError("the digests are not those of its files, one each")

    def files(self) -> set[str]:
        """Returns the names of all other files but the signature."""
        names = {name for name, _ in self.shards()}
        return names if self.classes is None else names | {LABELS}

    def shards(self) -> Iterator[tuple[str, int]]:
        """Yields (file name, rows) of each shard of representations."""
        for index, start in enumerate(range(0, self.rows, self.rows_per_shard)):
            yield shard_name(index), min(self.rows_per_shard, self.rows - start)

    def write(self, folder: Path) -> None:
        """Writes release.json whole."""
        write_document(folder / MANIFEST, self, _VERSION)


def rows_per_shard(shape: Sequence[int], dtype: str) -> int:
    """Returns how many rows of a shape (h, w, depth) go into one shard, a power of two."""
    fitting = max(1, _SHARD_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))
    return min(_MOST_ROWS, 2 ** (fitting.bit_length() - 1))


def read_manifest(files: ReleaseFiles) -> Manifest:
    """Returns what release.json tells, whoever signed it; UserError as of `signed_manifest`."""
    return signed_manifest(files, ANYBODY)[0]


def signed_manifest(files: ReleaseFiles, trust: Trust) -> tuple[Manifest, str]:
    """Returns what release.json tells, and the key that signed it.

    Raises:
        UserError: that is not what a writer wrote, or nobody who is trusted signed it.
    """
    again = "copy the release again, or extract it again into a new folder"
    try:
        (held, signer), what = files.manifest(trust), "description of a release"
        return read_document(held, Manifest, _VERSION, again, what=what), signer
    except (FileNotFoundError, NotADirectoryError):
        if files.is_begun():
            why = "is incomplete; run extract again, by the same command, to complete it"
        else:
            why = "is no release; give the folder that experiments.extract wrote, or its tar"
        raise UserError(f"{files.path} {why}") from None
