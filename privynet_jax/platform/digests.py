"""Checksums: of files, of whatever is JSON, of JSON files that carry their own, and of software.

    verify_sha256(path, expected)
    path.write_text(sealed({"version": 1}))
    content, is_unchanged = read_sealed(path)

A checksum tells damage and changes by hand; it keeps nobody out who computes it anew. No JAX here.
"""

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privynet_jax.errors import UserError

# What decides a cell's numbers beside this library's own sources.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
FETCH_ANEW = "delete the file and run again to fetch it anew"


def canonical_json(content: Any) -> bytes:
    """Returns JSON that is the same for equal content, and for what is read back from it."""
    # Read back, tuples are lists and keys are text, which may sort otherwise.
    return json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()


def sha256_of_json(content: Any) -> str:
    """Returns the hexadecimal sha256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """Returns the text of a JSON file that ends in its own checksum."""
    return json.dumps({**content, "sha256": sha256_of_json(content)}, indent=1) + "\n"


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """Returns what `sealed` wrote, without the checksum, and whether it is unchanged.

    Raises:
        ValueError: that is no JSON file with a checksum.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        return content, digest == sha256_of_json(content)
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("no JSON with a checksum") from None


def sha256_of(path: Path) -> str:
    """Returns the hexadecimal sha256 of a file, read in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(folder: Path) -> dict[str, str]:
    """Returns path inside a folder -> sha256, of all files at any depth."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def verify_files(folder: Path, expected: Mapping[str, str], remedy: str) -> None:
    """Raises UserError, which ends in the remedy, unless the folder's `sha256_of_files` are these.

    It may hold other files besides.
    """
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} is incomplete: {name} is missing; {remedy}")
        verify_sha256(folder / name, digest, remedy)


def verify_sha256(path: Path, expected: str, remedy: str = FETCH_ANEW) -> None:
    """Raises UserError, which ends in the remedy, unless the file has the expected sha256."""
    found = sha256_of(path)
    if found != expected:
        raise UserError(f"{path} is damaged: expected sha256 {expected}, found {found}; {remedy}")


@functools.cache
def versions() -> dict[str, str]:
    """Returns what decides a result beside its input: versions, and a digest of these sources."""
    sources, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.glob("**/*.py")):
        sources.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"privynet_jax": sources.hexdigest()[:12], **found}
