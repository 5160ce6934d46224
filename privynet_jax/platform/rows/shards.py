"""One array on disk as shards: files of consecutive rows, each of which proves its own content.

A shard is a .npy file followed by a sha256 over whose array it belongs to, its name, and all its
bytes: a damaged file, or a sound one in another's place, is noticed. `feature_cache` decides which
shards there are and computes them. Rows are read into fresh arrays, not mapped, because mapped
pages count as resident memory; what is resident is what was asked for. NumPy only.

    folder = ShardFolder(Path("cache/abc"), identity="...")
    shard = folder.write("test-00000.npy", array)
    rows = ShardedRows([shard], len(array), array.shape, array.dtype)
    rows[np.array([3, 0])]
"""

import contextlib
import errno
import functools
import hashlib
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from privynet_jax.platform.files import is_remote, remove_abandoned, write_shared
from privynet_jax.platform.rows.row_views import Blocks, RowView

if TYPE_CHECKING:  # devices have local folders alone
    from etils import epath

_DIGEST_BYTES = hashlib.sha256().digest_size
_CHUNK_BYTES = 2**20
# Rows are picked apart in blocks that stay in a core's own cache.
_BLOCK_BYTES = 2**18
# Well below the descriptors that a process may have, which is 256 on some systems.
_MOST_OPEN_FILES = 100


class DamagedShardError(Exception):
    """A shard's file is not what was written; the message says in what way."""


class Shard(NamedTuple):
    """A verified shard: the local file that holds it, and where in it the rows begin."""

    path: str
    offset: int


class ShardFolder:
    """The shards of one identity, in a local folder or in a bucket.

    Shards of a bucket are copied, while they are verified or written, to a local scratch folder,
    and read from there.
    """

    def __init__(self, folder: "epath.Path", identity: str, scratch: Path | None = None) -> None:
        """Makes the folder, and removes what killed processes left in it.

        The identity is the array's, in one line: a shard written under another passes for none. A
        bucket needs a scratch folder, which exists and is this process's alone.
        """
        self._folder, self._identity = folder, identity
        # Where shards are read from.
        self._local = Path(scratch) if scratch and is_remote(folder) else folder
        if is_remote(self._local):
            raise ValueError(f"{folder} is a bucket and needs a scratch folder")
        folder.mkdir(parents=True, exist_ok=True)
        if self._local == folder:
            remove_abandoned(Path(folder))

    def path(self, name: str) -> "epath.Path":
        """Returns where the shard of a name is, or would be."""
        return self._folder / name

    def find(self, name: str, shape: Sequence[int], dtype: np.typing.DTypeLike) -> Shard | None:
        """Returns the shard of a name after verifying all of it, or None if there is none.

        Raises:
            DamagedShardError: it is damaged, cannot be read, or is another array's.
            OSError: the scratch folder is full.
        """
        path, local = self.path(name), self._local / name
        try:
            with (
                path.open("rb") as file,
                contextlib.nullcontext() if local == path else local.open("wb") as copy,
            ):
                start, _ = verify_shard(file, self._identity, name, shape, dtype, copy)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENOSPC:  # the scratch folder's fault, not the shard's
                raise
            raise DamagedShardError(f"cannot be read: {error}") from None
        return Shard(os.fspath(local), start)

    def write(self, name: str, rows: np.ndarray) -> Shard:
        """Writes a shard, replacing what was there; OSError where it cannot be written."""
        header = _header(rows.shape, rows.dtype)
        content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        digest = _digest(self._identity, name)
        digest.update(header)
        digest.update(content)
        for folder in dict.fromkeys((self._folder, self._local)):
            write_shared(folder / name, [header, content, digest.digest()])
        return Shard(os.fspath(self._local / name), len(header))


def verify_shard(
    file: BinaryIO,
    identity: str,
    name: str,
    shape: Sequence[int],
    dtype: np.typing.DTypeLike,
    copy: BinaryIO | None = None,
) -> tuple[int, bytes]:
    """Reads a shard's whole file, in bounded memory; returns where rows begin, and its digest.

    What is before its digest is copied if asked to. Raises DamagedShardError.
    """
    header, digest, seen = _header(shape, dtype), _digest(identity, name), 0
    size = len(header) + math.prod(map(int, shape)) * np.dtype(dtype).itemsize
    while chunk := file.read(min(_CHUNK_BYTES, size - seen)):
        if not seen and not chunk.startswith(header[: len(chunk)]):
            raise DamagedShardError("does not begin with the expected header")
        digest.update(chunk)
        seen += len(chunk)
        if copy:
            copy.write(chunk)
    end = file.read(_DIGEST_BYTES + 1)
    if seen + len(end) < size + _DIGEST_BYTES:
        raise DamagedShardError(f"ends after {seen + len(end)} of {size + _DIGEST_BYTES} bytes")
    if end != digest.digest():
        raise DamagedShardError("does not match its checksum")
    return len(header), end


def written_digest(path: Path) -> bytes:
    """Returns the digest that a shard ends in, unverified."""
    with path.open("rb") as file:
        file.seek(-_DIGEST_BYTES, os.SEEK_END)
        return file.read()


def _digest(identity: str, name: str) -> Any:
    return hashlib.sha256(f"{identity}\n{name}\n".encode())


class ShardedRows(RowView):
    """An array [N, ...] read row by row from verified shards; like an array in what it answers."""

    def __init__(
        self,
        shards: Sequence[Shard],
        rows_per_shard: int,
        shape: Sequence[int],
        dtype: np.typing.DTypeLike,
        opener: "Opener | None" = None,
        keep: Any = None,
    ) -> None:
        """Opens nothing yet; all shards but the last have as many rows.

        The opener is `opener_of_files()`, shared by all arrays that are in use together; `keep` is
        anything that must live as long, such as the scratch folder.
        """
        super().__init__(tuple(map(int, shape)), dtype)
        self._shards, self._rows_per_shard, self._keep = shards, rows_per_shard, keep
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.nbytes = self.shape[0] * self.row_bytes
        self._held: np.ndarray | None = None
        self._open = opener_of_files() if opener is None else opener

    def select(self, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
        """As `RowView.select`, in blocks that the processor's caches hold."""
        numbers = self._numbers(which)
        step = max(1, _BLOCK_BYTES // max(1, self.row_bytes))
        for start in range(0, len(numbers), step):
            block = self._read(numbers[start : start + step])
            yield slice(start, start + len(block)), block.take(positions, axis=-1)

    def hold(self) -> None:
        """Reads everything into memory, once, from which rows are taken from then on."""
        self._held = self[:]

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        if self._held is not None:
            return self._held.take(numbers, axis=0)
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        if not rows.size:
            return rows
        buffer = rows.reshape(-1).view(np.uint8).data
        shards, places = np.divmod(numbers, self._rows_per_shard)
        # Rows that follow one another in one file are read at once.
        cuts = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1
        starts = np.concatenate([[0], cuts])
        ends = (self.row_bytes * np.append(cuts, len(numbers))).tolist()
        begin = 0
        # Plain integers from here on: with small rows, this loop is what reading costs.
        for end, shard, place in zip(
            ends, shards[starts].tolist(), (self.row_bytes * places[starts]).tolist(), strict=True
        ):
            path, offset = self._shards[shard]
            self._open(path).read_into(buffer[begin:end], offset + place)
            begin = end
        return rows


class _OpenFile:
    """A file that closes when nobody, in any thread, uses it any more."""

    def __init__(self, path: str) -> None:
        self._path, self._descriptor = path, None
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # At the interpreter's end modules are emptied first, so the function is held here.
        if self._descriptor is not None:
            close(self._descriptor)

    def read_into(self, target: memoryview, offset: int) -> None:
        missing = len(target)
        while missing:
            # The system may give less than was asked for, 2 GiB at most.
            count = os.preadv(self._descriptor, [target[-missing:]], offset)
            if not count:
                raise OSError(f"{self._path} was cut off while it was in use; run again")
            missing, offset = missing - count, offset + count


Opener = Callable[[str], _OpenFile]


def opener_of_files() -> Opener:
    """Returns what opens files by path and keeps the latest of them open, up to a limit."""
    return functools.lru_cache(_MOST_OPEN_FILES)(_OpenFile)


def _header(shape: Sequence[int], dtype: np.typing.DTypeLike) -> bytes:
    file = io.BytesIO()
    sizes = tuple(map(int, shape))
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": sizes}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()
