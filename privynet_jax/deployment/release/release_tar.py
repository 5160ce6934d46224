"""A release as one file to hand over: a tar that says nothing but what the folder says.

    path = write_tar(Path("release"))  # release.tar, beside it
    path = write_sealed(Path("release"), reader)  # release.sealed, which one reader can open

tar itself would tell the user's and the group's names and numbers, permissions and the folder's own
name. Here each of these is one constant, and files come in one order: the same bytes every time. No
JAX here.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from privynet_jax.deployment.release.release_files import MANIFEST, SIGNATURE, ReleaseFiles
from privynet_jax.deployment.release.release_folder import TIME
from privynet_jax.deployment.release.release_manifest import read_manifest
from privynet_jax.deployment.trust.keys import PublicKey
from privynet_jax.deployment.trust.sealing import SUFFIX as SEALED
from privynet_jax.deployment.trust.sealing import check_sealing, seal
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of
from privynet_jax.platform.files import write_shared

TAR = ".tar"
_INSIDE = "release"  # what the folder is called here may say more
_BLOCK = tarfile.BLOCKSIZE


def handed_over(folder: Path, reader: PublicKey | None = None) -> Path:
    """Returns where a release's tar is, or would be, or the file that one reader can open."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}{TAR if reader is None else SEALED}")


def check_place(folder: Path, reader: PublicKey | None = None) -> None:
    """Raises UserError where something is in the way of what is to be handed over."""
    if reader is not None:
        check_sealing()
    path = handed_over(folder, reader)
    if os.path.lexists(path) and not (folder / MANIFEST).is_file():
        raise UserError(f"{path} is there already; move it away, or give another --out")


def write_tar(folder: Path) -> Path:
    """Writes a finished release's tar, which appears whole, beside its folder; returns where.

    Raises:
        UserError: something else is there. The release stays.
    """
    path = handed_over(folder)
    if path.is_file() and sha256_of(path) == _digest(folder):
        return path  # of the same call before
    # Not replaced: it may be the only copy of another release.
    write_shared(path, _chunks(folder), replace=False)
    if sha256_of(path) != _digest(folder):
        raise UserError(
            f"{path} is there already, and is not what {folder} is now, which is complete; move it "
            "away and run again"
        )
    return path


def write_sealed(folder: Path, reader: PublicKey) -> Path:
    """Writes a finished release's tar, encrypted, beside its folder; returns where.

    Raises:
        UserError: something else is there. The release stays.
    """
    path, identity = handed_over(folder, reader), read_manifest(ReleaseFiles(folder)).id
    seal(path, _chunks(folder), identity, reader)
    return path


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(folder):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(folder: Path) -> Iterator[bytes]:
    manifest = read_manifest(ReleaseFiles(folder))
    signed = {SIGNATURE} if (folder / SIGNATURE).is_file() else set()
    # And nothing that an editor or a copy left there.
    for name in sorted({MANIFEST, *manifest.files(), *signed}):
        content = (folder / name).read_bytes()  # a shard at most
        info = tarfile.TarInfo(f"{_INSIDE}/{name}")
        info.size, info.mtime = len(content), TIME
        yield info.tobuf(tarfile.USTAR_FORMAT)
        yield content + bytes(-len(content) % _BLOCK)
    yield bytes(2 * _BLOCK)
