"""JSON files that carry a version and their own checksum, read into a dataclass and checked whole.

    write_document(path, manifest, version=1)  # a dataclass whose fields are Hex64, Count, ...
    manifest = read_document(path, type(manifest), version=1, remedy="copy the folder again")

Whoever can write the file can compute its checksum, so everything that it says is checked by the
types of the fields, bounds included, before anything is made of it. No JAX here.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sealed, sha256_of_json
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.typed_json import Bounds, typed

# Numbers of rows, pixels, channels, classes: products of three still fit into 64 bits.
Count = Annotated[int, Bounds(least=1, most=2**20 - 1)]
Rows = Annotated[int, Bounds(least=1, most=2**40 - 1)]
Channel = Annotated[int, Bounds(least=0, most=2**20 - 1)]
# NaN and infinity are no JSON.
Positive = Annotated[float, Bounds(above=0, most=1e38)]
Share = Annotated[float, Bounds(least=0, most=1)]
Text = Annotated[str, Bounds(longest=4096)]
Hex64 = Annotated[str, Bounds(pattern="[0-9a-f]{64}")]

# A plan's candidates, its sample's digests and its settings take some hundred KiB.
MOST_BYTES = 2**26
_LONGEST = 40  # of what is quoted
_VERSION, _CHECKSUM = "version", "sha256"
_Document = TypeVar("_Document")


def write_document(path: Path, document: Any, version: int, *, private: bool = False) -> None:
    """Writes a dataclass whole; `private` lets nobody but the user read it."""
    content = {_VERSION: version, **dataclasses.asdict(document)}
    write_atomically(path, sealed(content), private=private)


def read_document(
    path: Path, kind: type[_Document], version: int, remedy: str, *, what: str = "file"
) -> _Document:
    """Returns what `write_document` wrote.

    Args:
        path: of the file.
        kind: a dataclass whose fields have types and bounds; fields that it does not have are
            refused.
        version: of the format.
        remedy: what to do about a file that is not taken.
        what: what the file should be, in words.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no such file, of another version, was changed, or says what no writer
            wrote; that ends in the remedy.
    """
    content = _read(path, f"{path} is no {what}; {remedy}")
    found, checksum = content.pop(_VERSION, None), content.pop(_CHECKSUM, None)
    if found != version:
        raise UserError(
            f"{path} is of version {_quoted(found)} of the format, expected {version}; read it "
            f"with the privynet_jax that wrote it, or {remedy}"
        )
    if checksum != sha256_of_json({_VERSION: found, **content}):
        raise UserError(f"{path} was changed after it was written; {remedy}")
    return checked(content, kind, f"{path} is no {what}", remedy)


def checked(content: Any, kind: type[_Document], refusal: str, remedy: str) -> _Document:
    """Returns what JSON held as a dataclass, or raises a UserError of refusal, reason, remedy."""
    try:
        found = typed(content, kind)
    except ValueError as error:
        raise UserError(f"{refusal}: {error}; {remedy}") from None
    try:
        written = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    except ValueError:
        raise UserError(f"{refusal}: it holds NaN or infinity; {remedy}") from None
    # Whoever writes a dataclass writes all of its fields, at every depth, and no others.
    if unlike := _unlike(content, written):
        raise UserError(f"{refusal}: {unlike} is unknown or missing; {remedy}")
    return found


def _unlike(given: Any, known: Any) -> str:
    """The first name that is in one of two JSON values alone, or nothing."""
    if isinstance(given, dict) and isinstance(known, dict):
        if alone := given.keys() ^ known.keys():
            name = min(alone)
            return name if name.isidentifier() and len(name) <= _LONGEST else _quoted(name)
        return next(filter(None, (_unlike(given[k], known[k]) for k in given)), "")
    return ""


def _quoted(value: Any) -> str:
    """What a file says, which may be long and hold anything."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _read(path: Path, refusal: str) -> dict[str, Any]:
    """The JSON object of a file, nested no deeper than the checksum can be computed of."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError
        content = json.loads(text)
        json.dumps(content, allow_nan=False)  # nor may 1e999 become infinite
        return {**content}
    except (ValueError, TypeError, RecursionError):
        raise UserError(refusal) from None
