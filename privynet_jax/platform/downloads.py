"""Fetches a published file by its address, once, and trusts it only by its published checksum.

`weights` asks for Keras' own weight file here. What pip can fetch comes from `wheels` instead.

    path = fetch_file(PublishedFile(url, md5), cache_dir)
"""

import dataclasses
import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from privynet_jax.errors import UserError

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 20


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
        with open(partial, "wb") as file:
            for chunk in _chunks(published, path):
                file.write(chunk)
        _check_md5(partial, published.url, published, "run again to repeat the download")
        # A reader must never see half a file, so it appears under its name all at once.
        os.replace(partial, path)
    return path


def _chunks(published: PublishedFile, path: Path) -> Iterator[bytes]:
    """The file's bytes as they arrive; `path` is where a hand-made copy belongs."""
    try:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT_SECONDS) as response:
            while chunk := response.read(_CHUNK_BYTES):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {published.url}: {error}; connect to the network, or fetch that file "
            f"elsewhere and put it at {path}"
        ) from None


def _check_md5(path: Path, shown: Path | str, published: PublishedFile, remedy: str) -> None:
    with open(path, "rb") as file:
        # Some systems forbid MD5 unless told that no secret depends on it.
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != published.md5:
        raise UserError(f"{shown} has MD5 {found}, but {published.md5} is published; {remedy}")
