"""The files of a release: what they are called, and where they lie, in a folder or in a tar.

    files = files_at(Path("release.tar"))  # or the folder
    with files.file("labels.npy").open() as file:
        ...

A tar comes from somebody else: it is read where it lies, never unpacked, and nothing is taken but
plain files of one folder with the names that a release has. No JAX here.
"""

import dataclasses
import errno
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from privynet_jax.deployment.trust.sealing import SUFFIX as SEALED
from privynet_jax.deployment.trust.signatures import Held, Trust
from privynet_jax.errors import UserError, first_line

MANIFEST, LABELS = "release.json", "labels.npy"
SIGNATURE = "release.json.signature"
_SHARDS = re.compile(r"representations-\d{5,}\.npy|labels\.npy")
_WHOLE = re.compile(rf"{_SHARDS.pattern}|release\.json(\.signature)?")
_BLOCK, _MOST_MEMBERS = tarfile.BLOCKSIZE, 2**20
# Folders, and what newer formats tell of times and owners.
_PASSED_OVER = (tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE)
_FILES = re.compile(rf"({_WHOLE.pattern})|\.({_WHOLE.pattern})[.-].+")


@dataclasses.dataclass(frozen=True)
class ReleaseFile:
    """One file, that is there or not.

    Attributes:
        path: of the file, or of the tar that holds it.
        inside: its name, if that is in a tar.
        start: where in the tar it begins.
        size: of it in the tar; None where it is not there.
    """

    path: Path
    inside: str = ""
    start: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.inside} in {self.path}" if self.inside else str(self.path)

    def exists(self) -> bool:
        """Whether it is there."""
        return self.size is not None if self.inside else self.path.exists()

    def open(self, mode: str = "rb") -> BinaryIO:
        """Opens it for reading, to its end and no further."""
        if not self.inside:
            return self.path.open(mode)
        if self.size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return io.BufferedReader(_Window(self.path, self.start, self.size))


@dataclasses.dataclass(frozen=True)
class ReleaseFiles:
    """All files of one release.

    Attributes:
        path: the folder, or the tar.
        held: name -> file, of a tar.
    """

    path: Path
    held: Mapping[str, ReleaseFile] | None = None

    def file(self, name: str) -> ReleaseFile:
        """Returns the file of a name, which may be missing."""
        if self.held is None:
            return ReleaseFile(self.path / name)
        return self.held.get(name) or ReleaseFile(self.path, name)

    def manifest(self, trust: Trust) -> tuple[Held, str]:
        """Returns release.json, read, and the key that signed it, as `Trust.checked` does."""
        return trust.checked("release", self.file(MANIFEST), self.file(SIGNATURE))

    def is_begun(self) -> bool:
        """Whether there is any shard."""
        if self.held is not None:
            return any(_SHARDS.fullmatch(name) for name in self.held)
        there = self.path.is_dir() and self.path.iterdir()
        return any(_SHARDS.fullmatch(path.name) for path in there or ())


def shard_name(index: int) -> str:
    """Returns the file name of a shard of representations."""
    return f"representations-{index:05d}.npy"


def refuse_foreign_files(folder: Path) -> None:
    """Raises UserError if a folder holds what no release holds, not even an unfinished one."""
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [name for name in names if not _FILES.fullmatch(name)]:
        raise UserError(
            f"{folder} holds {foreign[0]}, which is no part of a release; move it away, or give "
            "another folder"
        )


def files_at(path: Path) -> ReleaseFiles:
    """Returns the files of a release's folder, there or not, or of its tar.

    Raises:
        UserError: a file that is no tar, an encrypted one, or one that holds anything else.
    """
    if not path.is_file():
        return ReleaseFiles(path)
    if path.suffix == SEALED:
        raise UserError(
            f"{path} is encrypted; give the folder that it was made of, or open it by "
            "experiments.unseal"
        )
    held: dict[str, ReleaseFile] = {}
    folders = set()
    for name, start, size in _members(path):
        place = PurePosixPath(name)
        is_plain = not place.is_absolute() and ".." not in place.parts
        if not (is_plain and _WHOLE.fullmatch(place.name)) or place.name in held:
            raise _refused(path, f"holds {name!r}, which is no part of one release")
        folders.add(place.parent)
        held[place.name] = ReleaseFile(path, place.name, start, size)
    if len(folders) != 1:
        raise _refused(path, "does not hold the files of one folder")
    return ReleaseFiles(path, held)


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, start, size) of each plain file in a tar, whose headers are all that is read.

    `tarfile` itself reads what headers of other kinds bring along, however much they say that is.
    """
    with path.open("rb") as file:
        end, start = os.fstat(file.fileno()).st_size, 0
        for _ in range(_MOST_MEMBERS):
            file.seek(start)
            if not (header := file.read(_BLOCK)).strip(b"\0"):
                return
            try:
                member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError) as error:
                raise _refused(path, f"is no tar of a release: {first_line(error)}") from None
            start += _BLOCK
            if not 0 <= member.size <= end - start:
                raise _refused(path, f"ends before {member.name!r} does")
            if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield member.name, start, member.size
            elif member.type not in _PASSED_OVER:
                raise _refused(path, f"holds {member.name!r}, which is no plain file")
            start += -(-member.size // _BLOCK) * _BLOCK
    raise _refused(path, f"holds more than {_MOST_MEMBERS} files")


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"{path} {why}; give a tar that extract wrote, or copy it again")


class _Window(io.RawIOBase):
    """A part of a file, from its own beginning to its own end."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file, self._left = path.open("rb", buffering=0), size
        self._file.seek(start)

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """As `io.RawIOBase.readinto`."""
        count = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count

    def close(self) -> None:
        """As `io.RawIOBase.close`."""
        self._file.close()
        super().close()
