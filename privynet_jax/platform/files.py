"""Files that appear whole or not at all, so that a killed run never leaves half of one.

`write_atomically` is for what must survive a power cut; `write_shared` for large files that carry
their own checksum, in folders that several processes fill at once, local or in a bucket.

    write_atomically(Path("config.json"), text)
    write_shared(epath.Path("gs://bucket/shard.npy"), [header, rows, digest])
"""

import contextlib
import fcntl
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from privynet_jax.errors import UserError

if TYPE_CHECKING:  # rooms that write small files start without it
    from etils import epath

# A temporary file that nobody wrote to for so long was left by a process that was killed. A day, as
# clocks of machines that share a folder differ, and processes are suspended.
_ABANDONED_SECONDS = 24 * 3600
# Arrays beyond this go to a file.
_MOST_BYTES_IN_MEMORY = 2**29
_LONGEST_REASON = 300  # some libraries quote whole specifications
_TEMPORARY = re.compile(r"\..+\.privynet-\w+")


def write_atomically(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Writes a file, which survives a power cut from then on, in place of one that may be there.

    Text is written as UTF-8, names of files as they are. Only the user may read what is private.
    """
    with _appearing(path, 0o600 if private else 0o644) as file:
        # Names on disk may be no UTF-8; Python escapes such bytes, and gives them back like this.
        file.write(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def allocate(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uint8 array in memory or, when large, in a nameless file, which may be paged out.

    Raises OSError where the temporary folder has no room for that file.
    """
    if math.prod(shape) <= _MOST_BYTES_IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the file object
        if hasattr(os, "posix_fallocate"):  # else writing to a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.memmap(file, np.uint8, "w+", shape=shape)


def write_shared(
    path: "epath.Path", chunks: Iterable[Any], *, replace: bool = True, private: bool = False
) -> None:
    """Writes a file whose readers verify its content, beside other processes that may do the same.

    Locally it appears whole. In a bucket it is written in place: most stores show an object only
    once it is closed, and the others are why readers verify.

    Args:
        path: what to write.
        chunks: bytes-like objects, in order.
        replace: False keeps a file that is already there, and drops this one. A bucket cannot
            promise that; the last writer wins there.
        private: let nobody but the user read a local file.
    """
    mode = 0o600 if private else 0o644
    with path.open("wb") if is_remote(path) else _appearing(path, mode, replace=replace) as file:
        for chunk in chunks:
            file.write(chunk)


@contextlib.contextmanager
def _appearing(path: Path, mode: int, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file under a temporary name beside `path`, which is renamed when all went well."""
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.privynet-")
    except OSError as error:
        error.filename = str(path)  # a user knows no other
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(partial, mode)
        if replace:
            os.replace(partial, path)
        else:
            _named(partial, path)  # unless another process was faster
    except OSError as error:  # a full disk does not say what it was to hold
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        Path(partial).unlink(missing_ok=True)


def write_new(path: Path, write: Callable[[Path], Any]) -> Path:
    """Returns where a new file is: at a path or, where something is by then, beside it.

    `write` writes it, at the path that it is given.
    """
    with private_folder(path.parent, path.name) as scratch:
        partial = scratch / path.name
        try:
            write(partial)
        except OSError as error:
            if str(error.filename).startswith(str(scratch)):
                error.filename = str(path)  # a user knows no other
            raise
        beside = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
        return next(free for free in chain([path], beside) if _named(partial, free))


def written_new(path: Path, write: Callable[[Path], Any]) -> str:
    """Writes a new file as `write_new` does, and says where it is."""
    return told_where(write_new(path, write), path)


def told_where(found: Path, path: Path) -> str:
    """Returns in words where a file is that was to be at a path."""
    return str(path) if found == path else f"{found}, as something else is at {path} by now"


def _named(partial: os.PathLike[str] | str, path: Path) -> bool:
    """Gives a file its name, unless that is taken."""
    try:
        os.link(partial, path)  # which, unlike renaming, never replaces a file
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(path):
            return False
        os.replace(partial, path)
    return True


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files and folders that did not change for a day in a local folder."""
    for partial in folder.glob(".*"):
        if _TEMPORARY.fullmatch(partial.name):
            with contextlib.suppress(OSError):  # removed by another process, or another user's
                if time.time() - partial.stat().st_mtime < _ABANDONED_SECONDS:
                    continue
                if not partial.is_dir():
                    partial.unlink()
                elif _is_free(partial):
                    shutil.rmtree(partial)


@contextlib.contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yields a folder for the user alone, which goes with the body, as do those of killed ones."""
    remove_abandoned(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}.privynet-") as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(descriptor)


def _is_free(folder: Path) -> bool:
    """Whether no process holds the folder; work of more than a day may not change it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def check_is_new(folder: Path) -> None:
    """Raises UserError where something is in the way of a new folder."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already; give a new folder, or delete that one first")


@contextlib.contextmanager
def appears_whole(folder: Path) -> Iterator[Path]:
    """Yields a path to make a folder at, which takes the place of a new one at the end.

    Raises:
        UserError: something is in the way.
    """
    check_is_new(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        yield Path(scratch) / folder.name
        os.replace(Path(scratch) / folder.name, folder)


def expanded(flag: str, path: str) -> Path:
    """Returns a path, with ~ for a home; UserError where that is unknown.

    The flag is the one that names the path; "" where several may have done so.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        named = f"--{flag}={path}" if flag else path
        raise UserError(f"{named} begins with an unknown home; give a path") from None


def checked_file(flag: str, path: str) -> Path:
    """Returns `expanded`; UserError where that is a folder, or in a folder that does not exist."""
    file = expanded(flag, path)
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"--{flag}={file} must be a file in a folder that exists; give such a file")
    return file


def new_file(flag: str, path: str, advice: str = "give another file") -> Path:
    """Returns `checked_file`; UserError where something is there already."""
    file = checked_file(flag, path)
    if os.path.lexists(file):
        raise UserError(f"--{flag}={file} exists already, and nothing is replaced; {advice}")
    return file


def is_remote(path: os.PathLike[str] | str) -> bool:
    """Whether a path names a place in a bucket, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def damaged_if(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a format library's errors into one line: the file at a path is damaged, of this kind.

    Other exceptions, UserError and a lack of memory pass.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except errors as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(f"{path} is no readable {kind}: {reason}; fetch or save it again") from None
