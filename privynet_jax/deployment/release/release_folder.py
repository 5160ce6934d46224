"""A release: what leaves the device, as a folder of shards; its writer and its reader.

    writer = ReleaseWriter(folder, identity, plan_id, shape=(16, 16, 8), dtype="float16")
    writer.write(0, rows)  # float16 [n, 16, 16, 8]: `rows_per_shard`, or what is left
    writer.finish(n, labels, num_classes=10, peaks=package.peaks)

    release = open_release(folder)  # verified, all of it
    x, y = release.representations[np.array([3, 0])], release.labels[[3, 0]]

Nothing in it says where a row came from: no image, name, date, channel, layer, scale or seed.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privynet_jax.deployment.release.release_manifest import (
    LABELS,
    MANIFEST,
    Manifest,
    read_manifest,
    refuse_foreign_files,
    rows_per_shard,
    shard_name,
)
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import Coding, DecodedRows
from privynet_jax.platform.rows.shards import DamagedShardError, Shard, ShardedRows, ShardFolder

# 1980-01-01, the oldest time that every archive format can hold.
TIME = 315_532_800
# Up to this size rows are held in memory: where they are small, the system call is what costs.
_HELD_BYTES = 2**29


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A verified release.

    Attributes:
        id: of the release.
        plan_id: of the plan that the package was made of.
        representations: [N, h, w, depth], normalised; answers len, shape, dtype and [slice or
            integer array], the rows as float32 where that is stored, else as float16.
        labels: int32 [N], or None.
        num_classes: labels are below it; None where there are none.
        dtype: how rows are stored, one of `coding.DTYPES`.
    """

    id: str
    plan_id: str
    representations: ShardedRows | DecodedRows
    labels: np.ndarray | None
    num_classes: int | None
    dtype: str

    def __len__(self) -> int:
        return len(self.representations)


class ReleaseWriter:
    """Writes the shards of a release, in any order, and at last what makes them one."""

    def __init__(
        self, folder: Path, identity: str, plan_id: str, shape: Sequence[int], dtype: str
    ) -> None:
        """Makes the folder of a release of this id, with rows (h, w, depth)."""
        self.rows_per_shard = rows_per_shard(shape, dtype)
        self._folder, self._id, self._plan_id = folder, identity, plan_id
        self._shape, self._dtype = tuple(map(int, shape)), dtype
        self._shards = ShardFolder(folder, identity)

    def has(self, index: int, count: int) -> bool:
        """Whether the shard of a number is there and sound, with so many rows."""
        name = shard_name(index)
        try:
            return self._shards.find(name, (count, *self._shape), self._dtype) is not None
        except DamagedShardError:
            return False

    def write(self, index: int, rows: np.ndarray) -> None:
        """Writes a shard of stored rows [n, h, w, depth]."""
        if rows.shape[1:] != self._shape or rows.dtype != self._dtype:
            raise ValueError(f"Expected {self._shape} {self._dtype}, got {rows.shape} {rows.dtype}")
        self._shards.write(shard_name(index), rows)

    def finish(
        self, rows: int, labels: np.ndarray | None, num_classes: int | None, peaks: np.ndarray
    ) -> None:
        """Writes labels int [rows] and the manifest; removes what earlier attempts left.

        File times become one constant: they would tell when pictures were processed. UserError: the
        folder holds a file that is no part of a release.
        """
        refuse_foreign_files(self._folder)
        manifest = Manifest(
            id=self._id,
            plan_id=self._plan_id,
            rows=rows,
            shape=self._shape,
            dtype=self._dtype,
            num_classes=num_classes,
            rows_per_shard=self.rows_per_shard,
            peaks=tuple(map(float, peaks)) if self._dtype == "uint8" else None,
        )
        names = {name for name, _ in manifest.shards()}
        if labels is not None:
            self._shards.write(LABELS, np.asarray(labels, np.int32))
            names.add(LABELS)
        for path in list(self._folder.iterdir()):
            if path.name not in names:  # among them temporary files, whose names tell the host's
                path.unlink()
        for name in names:
            os.utime(self._folder / name, (TIME, TIME))
        manifest.write(self._folder)
        os.utime(self._folder / MANIFEST, (TIME, TIME))
        os.utime(self._folder, (TIME, TIME))


def open_release(folder: Path) -> Release:
    """Returns a release after verifying every byte of it.

    Rows are read from the disk when they are asked for, unless all together are small.

    Raises:
        UserError: anything is missing, damaged, of another version, changed or inconsistent.
    """
    manifest = read_manifest(folder)
    shards = ShardFolder(folder, manifest.id)
    shape, verified = (manifest.rows, *manifest.shape), _verified(shards, manifest)
    stored = ShardedRows(verified, manifest.rows_per_shard, shape, manifest.dtype)
    labels = _read_labels(shards, manifest)
    if stored.nbytes <= _HELD_BYTES:
        stored.hold()
    peaks = np.float32(manifest.peaks or ())
    decoded = Coding(manifest.dtype, np.ones_like(peaks), peaks).decoded(stored)
    return Release(
        id=manifest.id,
        plan_id=manifest.plan_id,
        representations=decoded,
        labels=labels,
        num_classes=manifest.num_classes,
        dtype=manifest.dtype,
    )


def _verified(shards: ShardFolder, manifest: Manifest) -> list[Shard]:
    """Verifies all shards of representations, several at once; the first bad one is told."""
    wanted = []
    for name, count in manifest.shards():
        if not shards.path(name).exists():  # asked first, so that absurd numbers of rows end here
            raise _missing(shards.path(name))
        wanted.append((name, count))

    def verify(shard: tuple[str, int]) -> Shard:
        return _find(shards, shard[0], (shard[1], *manifest.shape), manifest.dtype)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        verified = pool.map(verify, wanted)
        try:
            return list(Bar(verified, "verifying release", len(wanted), unit="shard", delay=2))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise


def _find(shards: ShardFolder, name: str, shape: tuple[int, ...], dtype: str) -> Shard:
    try:
        shard = shards.find(name, shape, dtype)
    except DamagedShardError as error:
        raise UserError(
            f"{shards.path(name)} {error}: it is damaged, or part of another release; copy the "
            "release again, or extract it again"
        ) from None
    if shard is None:
        raise _missing(shards.path(name))
    return shard


def _missing(path: Path) -> UserError:
    return UserError(f"{path} is missing; copy the release again, or extract it again")


def _read_labels(shards: ShardFolder, manifest: Manifest) -> np.ndarray | None:
    if manifest.num_classes is None:
        return None
    shard = _find(shards, LABELS, (manifest.rows,), "int32")
    labels = ShardedRows([shard], manifest.rows, (manifest.rows,), np.int32)[:]
    if not 0 <= labels.min() <= labels.max() < manifest.num_classes:
        raise UserError(
            f"{shards.path(LABELS)} has labels from {labels.min()} to {labels.max()}, but the "
            f"release has {manifest.num_classes} classes, from 0; extract it again"
        )
    return labels
