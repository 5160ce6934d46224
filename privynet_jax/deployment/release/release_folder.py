"""A release: what leaves the device, as a folder of shards; its writer and its reader.

    writer = ReleaseWriter(folder, identity, plan_id, shape=(16, 16, 8), dtype="float16")
    writer.write(0, rows)  # float16 [n, 16, 16, 8]: `rows_per_shard`, or what is left
    writer.finish(n, labels, classes=(id_of_0, id_of_1), peaks=package.peaks)

    release = open_release(folder)  # or its tar; verified, all of it
    x, y = release.representations[np.array([3, 0])], release.labels[[3, 0]]

Nothing in it says where a row came from: no image, name, date, channel, layer, scale or seed.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privynet_jax.deployment.release.release_files import (
    LABELS,
    MANIFEST,
    SIGNATURE,
    ReleaseFile,
    ReleaseFiles,
    files_at,
    refuse_foreign_files,
    shard_name,
)
from privynet_jax.deployment.release.release_manifest import (
    Manifest,
    read_manifest,
    rows_per_shard,
    signed_manifest,
)
from privynet_jax.deployment.trust.keys import PrivateKey
from privynet_jax.deployment.trust.signatures import ANYBODY, Trust, sign
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import Coding, DecodedRows
from privynet_jax.platform.rows.shards import (
    DamagedShardError,
    Opener,
    Shard,
    ShardedRows,
    ShardFolder,
    verify_shard,
    written_digest,
)

# 1980-01-01, the oldest time that every archive format can hold.
TIME = 315_532_800
# Up to this size rows are held in memory: where they are small, the system call is what costs.
HELD_BYTES = 2**29


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A verified release.

    Attributes:
        id: of the release.
        plan_id: of the plan that the package was made of.
        representations: [N, h, w, depth], normalised; answers len, shape, dtype and [slice or
            integer array], the rows as float32 where that is stored, else as float16.
        labels: int32 [N], places among the classes; [N, classes] of 0 and 1 where each row may have
            several of them, or none; or None.
        classes: ids of the classes by label, ascending; None where there are no labels.
        dtype: how rows are stored, one of `coding.DTYPES`.
        name: where it was read from.
        signer: the public key that signed it; nothing where nobody had to.
    """

    id: str
    plan_id: str
    representations: ShardedRows | DecodedRows
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    dtype: str
    name: str = ""
    signer: str = ""

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
        self,
        rows: int,
        labels: np.ndarray | None,
        classes: Sequence[str] | None,
        peaks: np.ndarray,
    ) -> None:
        """Writes labels and the manifest; removes what earlier attempts left.

        Labels, int [rows], are places among the ids of the classes, which ascend; or int [rows,
        classes] of 0 and 1.

        File times become one constant: they would tell when pictures were processed. UserError: the
        folder holds a file that is no part of a release.
        """
        refuse_foreign_files(self._folder)
        if labels is not None:
            self._shards.write(LABELS, np.asarray(labels, np.int32))
        shards = range(-(-rows // self.rows_per_shard))
        names = {*map(shard_name, shards)} | ({LABELS} if labels is not None else set())
        manifest = Manifest(
            id=self._id,
            plan_id=self._plan_id,
            rows=rows,
            shape=self._shape,
            dtype=self._dtype,
            classes=None if classes is None else tuple(classes),
            several=labels is not None and labels.ndim == 2,
            rows_per_shard=self.rows_per_shard,
            peaks=tuple(map(float, peaks)) if self._dtype == "uint8" else None,
            digests={name: written_digest(self._folder / name).hex() for name in sorted(names)},
        )
        for path in list(self._folder.iterdir()):
            if path.name not in names:  # among them temporary files, whose names tell the host's
                path.unlink()
        for name in names:
            os.utime(self._folder / name, (TIME, TIME))
        manifest.write(self._folder)
        os.utime(self._folder / MANIFEST, (TIME, TIME))
        os.utime(self._folder, (TIME, TIME))


def sign_release(folder: Path, key: PrivateKey | None) -> None:
    """Signs a finished release's folder, if there is a key; removes what killed attempts left."""
    sign(folder / MANIFEST, "release", key)
    known = {MANIFEST, SIGNATURE, *read_manifest(ReleaseFiles(folder)).files()}
    for path in (*folder.iterdir(), folder):
        if path != folder and path.name not in known:
            path.unlink()
        elif path.stat().st_mtime != TIME:
            os.utime(path, (TIME, TIME))


def open_release(
    path: Path,
    opener: Opener | None = None,
    held_bytes: int = HELD_BYTES,
    trust: Trust = ANYBODY,
) -> Release:
    """Returns a release, from its folder or its tar, after verifying every byte of it.

    Who signed it is asked where `trust` says so; by default nobody has to. Rows are read from the
    disk when they are asked for, unless all together are as small as said. Releases that are in use
    together share an opener, `shards.opener_of_files()`.

    Raises:
        UserError: anything is missing, damaged, of another version, changed or inconsistent, or
            nobody who is trusted signed it.
    """
    files = files_at(path)
    manifest, signer = signed_manifest(files, trust)
    shape, verified = (manifest.rows, *manifest.shape), _verified(files, manifest)
    stored = ShardedRows(verified, manifest.rows_per_shard, shape, manifest.dtype, opener)
    labels = _read_labels(files, manifest)
    if stored.nbytes <= held_bytes:
        stored.hold()
    peaks = np.float32(manifest.peaks or ())
    decoded = Coding(manifest.dtype, np.ones_like(peaks), peaks).decoded(stored)
    return Release(
        id=manifest.id,
        plan_id=manifest.plan_id,
        representations=decoded,
        labels=labels,
        classes=manifest.classes,
        dtype=manifest.dtype,
        name=str(path),
        signer=signer,
    )


def _verified(files: ReleaseFiles, manifest: Manifest) -> list[Shard]:
    """Verifies all shards of representations, several at once; the first bad one is told."""
    wanted = []
    for name, count in manifest.shards():
        if not files.file(name).exists():
            raise _missing(files.file(name))
        wanted.append((name, count))

    def verify(shard: tuple[str, int]) -> Shard:
        return _find(files, manifest, shard[0], (shard[1], *manifest.shape), manifest.dtype)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        verified = pool.map(verify, wanted)
        try:
            return list(Bar(verified, "verifying release", len(wanted), unit="shard", delay=2))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise


def _find(
    files: ReleaseFiles, manifest: Manifest, name: str, shape: tuple[int, ...], dtype: str
) -> Shard:
    file = files.file(name)
    try:
        with file.open() as opened:
            start, digest = verify_shard(opened, manifest.id, name, shape, dtype)
        if digest.hex() != manifest.digests[name]:
            raise DamagedShardError(f"is not the one that {MANIFEST} tells of")
    except FileNotFoundError:
        raise _missing(file) from None
    except (DamagedShardError, OSError) as error:
        why = error if isinstance(error, DamagedShardError) else f"cannot be read: {error}"
        raise UserError(
            f"{file} {why}: it is damaged, or part of another release; copy the release again, or "
            "extract it again"
        ) from None
    return Shard(os.fspath(file.path), file.start + start)


def _missing(file: ReleaseFile) -> UserError:
    return UserError(f"{file} is missing; copy the release again, or extract it again")


def _read_labels(files: ReleaseFiles, manifest: Manifest) -> np.ndarray | None:
    if manifest.classes is None:
        return None
    count = len(manifest.classes)
    shape = (manifest.rows, count) if manifest.several else (manifest.rows,)
    shard = _find(files, manifest, LABELS, shape, "int32")
    labels = ShardedRows([shard], manifest.rows, shape, np.int32)[:]
    told, found = f"{files.file(LABELS)} has labels", np.unique(labels)
    if manifest.several and not np.isin(found, (0, 1)).all():
        raise UserError(f"{told} that are neither 0 nor 1; extract it again")
    if not manifest.several and not np.array_equal(found, np.arange(count)):
        raise UserError(
            f"{told} from {labels.min()} to {labels.max()}, but the release has {count} classes, "
            "from 0, of which each must occur; extract it again"
        )
    return labels
