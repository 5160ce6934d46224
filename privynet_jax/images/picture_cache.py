"""Decoded pictures, kept so that the next command need not decode large files again.

    pixels = decode_cached(folder, path.read_bytes(), size=32)  # as `pictures.decode_picture`

They are found by their files' content, not by their names, and lie in a folder of the user's alone:
they are as private as the pictures. Whoever deletes it loses time and nothing else.
"""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import PIL

from privynet_jax.images.pixels.pictures import VERSION, decode_picture
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.platform.files import write_shared

# Of smaller files, decoding takes no longer than a look into the cache.
_LEAST_BYTES = 2**18
_DIGEST_BYTES = 32


def decode_cached(
    folder: Path | None, data: bytes, size: int, *, reading: Reading = AS_FILES_SAY
) -> np.ndarray:
    """Returns `decode_picture` of a file's content, and raises what that raises; None: no cache."""
    if folder is None or len(data) < _LEAST_BYTES:
        return decode_picture(data, size, reading=reading)
    key = hashlib.sha256(data)
    key.update(f" {size} {reading.told()} {VERSION} {PIL.__version__}".encode())
    path = folder / key.hexdigest()
    with contextlib.suppress(OSError, ValueError):  # not there, or no picture
        content = path.read_bytes()
        pixels, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if digest == hashlib.sha256(pixels).digest():
            return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)
    picture = decode_picture(data, size, reading=reading)
    with contextlib.suppress(OSError):  # without a cache, a full disk costs time alone
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_shared(path, [picture, hashlib.sha256(picture).digest()], private=True)
    return picture
