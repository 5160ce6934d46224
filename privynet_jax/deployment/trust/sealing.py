"""A release that one reader alone can open: encrypted by HPKE (RFC 9180) to a public key.

    seal(path, chunks, release_id, public)     # release.sealed
    with open(out, "wb") as file:
        file.writelines(unsealed(path, private))

The file is a line of JSON that says which release it is of and who can open it, and pieces: the
length of each (8 bytes, little-endian) and what HPKE made of up to 16 MiB. Each is bound, by HPKE's
`info`, to that line, its place, and whether it is the last: none can be left out, repeated,
exchanged or cut off. That says nothing of who encrypted: a signature does, inside. No JAX here.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from privynet_jax.deployment.trust.keys import PrivateKey, PublicKey, library, shown
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Hex64, checked
from privynet_jax.platform.files import write_shared

SUFFIX = ".sealed"
_FORMAT = "privynet_jax sealed release 1"
_PIECE, _LENGTH = 2**24, 8
# HPKE adds a key and a tag.
_MOST_PIECE, _MOST_LINE = _PIECE + 2**10, 2**10


@dataclasses.dataclass(frozen=True)
class Sealed:
    """The first line of a sealed release: `to` is who can open it."""

    format: Literal["privynet_jax sealed release 1"]
    release: Hex64
    to: Hex64


def seal(path: Path, chunks: Iterable[bytes], release_id: str, reader: PublicKey) -> None:
    """Writes a release's tar, given in chunks, so that the reader alone can open it.

    Raises:
        UserError: something else is there already. Of the same release and reader, it is replaced.
    """
    head = Sealed(_FORMAT, release_id, reader.sealing)
    if os.path.lexists(path) and not _is_of(path, head):
        raise UserError(f"{path} is there already, and is of something else; move it away")
    line = json.dumps(dataclasses.asdict(head)).encode() + b"\n"
    keys = library("hazmat.primitives.asymmetric.x25519")
    public = keys.X25519PublicKey.from_public_bytes(bytes.fromhex(reader.sealing))
    write_shared(path, _sealed(line, _pieces(chunks), public))


def check_sealing() -> None:
    """Raises UserError where the cryptography package is missing, or too old."""
    _suite()


def _is_of(path: Path, head: Sealed) -> bool:
    """Whether a file is an earlier, maybe damaged one of the same release for the same reader."""
    try:
        with path.open("rb") as file:
            return _read_head(path, file)[0] == head
    except (OSError, UserError):
        return False


def unsealed(path: Path, key: PrivateKey) -> Iterator[bytes]:
    """Yields the tar of a sealed release, piece by piece.

    Raises:
        UserError: it is none, is for somebody else, or was changed or cut off.
    """
    suite = _suite()
    with path.open("rb") as file:
        head, line = _read_head(path, file)
        if head.to != key.public.sealing:
            raise UserError(
                f"{path} is for who has the key {shown(head.to)}, and yours is "
                f"{shown(key.public.sealing)}; give the key that it was encrypted to"
            )
        piece, number = _read_piece(path, file), 0
        while piece is not None:
            following = _read_piece(path, file)
            info = _info(line, number, is_last=following is None)
            try:
                yield suite.decrypt(piece, key.sealing, info)
            except library("exceptions").InvalidTag:
                raise _damaged(path) from None
            piece, number = following, number + 1
    if not number:
        raise _damaged(path)


def _sealed(line: bytes, pieces: Iterator[bytes], public: Any) -> Iterator[bytes]:
    suite, number = _suite(), 0
    yield line
    piece = next(pieces, b"")
    while piece is not None:
        following = next(pieces, None)
        found = suite.encrypt(piece, public, _info(line, number, is_last=following is None))
        yield len(found).to_bytes(_LENGTH, "little")
        yield found
        piece, number = following, number + 1


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in pieces of one size but for the last."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) > _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    yield bytes(held)


def _suite() -> Any:
    hpke = library("hazmat.primitives.hpke")
    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def _info(line: bytes, number: int, *, is_last: bool) -> bytes:
    place = number.to_bytes(_LENGTH, "little") + bytes([is_last])
    return line + place


def _read_head(path: Path, file: BinaryIO) -> tuple[Sealed, bytes]:
    line, refusal = file.readline(_MOST_LINE), f"{path} is no sealed release"
    advice = "give what extract --encrypt_to wrote"
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{refusal}; {advice}") from None
    return checked(content, Sealed, refusal, advice), line


def _read_piece(path: Path, file: BinaryIO) -> bytes | None:
    """The next piece, None at the end."""
    length = file.read(_LENGTH)
    if not length:
        return None
    size = int.from_bytes(length, "little")
    piece = file.read(size) if len(length) == _LENGTH and size <= _MOST_PIECE else b""
    if not piece or len(piece) < size:
        raise _damaged(path)
    return piece


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} was changed or cut off on the way; copy it again")
