"""Signatures: who made a package, a release, a classifier or a revocation.

    sign(Path("classifier/classifier.json"), "classifier", key)
    file, signer = trust.checked("classifier", Path("classifier/classifier.json"))

Signed is the one file that says what all others must be: it lists their digests, and is verified
against them by whoever opens it. The signature, Ed25519's, lies beside it, and is of what it
signs: nobody can pass the signature of a release off as that of a package. No JAX here.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args

from privynet_jax.deployment.trust.keys import PUBLIC, PrivateKey, library, read_public, shown
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import MOST_BYTES, Hex64, read_document, write_document
from privynet_jax.platform.typed_json import Bounds

Kind = Literal["package", "release", "classifier", "revocation"]
KINDS = get_args(Kind)
SUFFIX = ".signature"
_VERSION = 1
_MOST_NAMED = 4


@dataclasses.dataclass(frozen=True)
class Signature:
    """FILE.signature: a public key, and its signature of the file."""

    key: Hex64
    signature: Annotated[str, Bounds(pattern="[0-9a-f]{128}")]


@dataclasses.dataclass(frozen=True)
class Held:
    """A file's content with its name, so that what is checked is what is read."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> BinaryIO:
        """Opens it for reading."""
        return io.BytesIO(self.content)


@dataclasses.dataclass(frozen=True)
class Trust:
    """What is accepted.

    Attributes:
        keys: kind of thing -> public keys whose signatures are.
        unsigned: whether what has no signature is, too; without any keys, whatever its signature.
        otherwise: what else somebody can do about what nobody signed.
    """

    keys: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    unsigned: bool = False
    otherwise: str = "give --unsigned to take it from anybody"

    def checked(self, kind: Kind, file: Any, signature: Any = None) -> tuple[Held, str]:
        """Returns a file, read, and the public key that signed it; nothing where nobody has to.

        Args:
            kind: what the file makes known.
            file: a path, or what opens like one.
            signature: what opens and exists like a path; beside the file by default.

        Raises:
            OSError: the file cannot be read.
            UserError: nobody signed, or somebody who is not trusted, or something else.
        """
        signature = beside(file) if signature is None else signature
        with file.open("rb") as opened:
            held = Held(str(file), opened.read(MOST_BYTES + 1))
        keys, what = self.keys.get(kind, frozenset()), f"the {kind} {file}"
        if self.unsigned and not (keys and signature.exists()):
            return held, ""
        if not signature.exists():
            raise UserError(
                f"{what} is not signed; ask whoever made it to sign it, or {self.otherwise}"
            )
        found = read_document(signature, Signature, _VERSION, "copy it again", what="signature")
        if found.key not in keys:
            others = sorted(map(shown, keys))
            named = ", ".join(others[:_MOST_NAMED]) + (", ..." if others[_MOST_NAMED:] else "")
            raise UserError(
                f"{what} is signed by {shown(found.key)}, and trusted are {named or 'none'}; give "
                "--trusted=FILE.pub of somebody whom you trust, if that is who made it"
            )
        ed25519 = library("hazmat.primitives.asymmetric.ed25519")
        try:
            public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.key))
            public.verify(bytes.fromhex(found.signature), _message(kind, held.content))
        except (ValueError, library("exceptions").InvalidSignature):
            raise UserError(
                f"{what} is not what {shown(found.key)} signed; it was changed since then, so "
                "copy it again, or ask for it again"
            ) from None
        return held, found.key


# What a caller in Python gets that names nobody: whoever calls decides.
ANYBODY = Trust(unsigned=True)


def beside(file: Path) -> Path:
    """Returns where the signature of a file is, or would be."""
    return file.with_name(f"{file.name}{SUFFIX}")


def sign(file: Path, kind: Kind, key: PrivateKey | None) -> None:
    """Writes the signature beside a file, as private as that is; without a key, nothing."""
    if key is None:
        return
    signature = key.signing.sign(_message(kind, file.read_bytes())).hex()
    document, path = Signature(key.public.signing, signature), beside(file)
    with contextlib.suppress(OSError, UserError):
        if read_document(path, Signature, _VERSION, "") == document:
            return  # by the same call before
    private = not file.stat().st_mode & 0o077
    write_document(path, document, _VERSION, private=private)


def read_trust(given: Iterable[str], expanded: Callable[[str], Path], **settings: Any) -> Trust:
    """Returns who is trusted, of what --trusted names.

    Args:
        given: each a file with a public key, or a folder of such, for all kinds of things or, as in
            `package:planner.pub`, for one.
        expanded: path of each.
        settings: `Trust`'s other fields.

    Raises:
        UserError: one names nothing, or no such file or folder.
    """
    found: dict[str, frozenset[str]] = {}
    for one in given:
        kind, _, name = one.rpartition(":")
        kinds, name = ((kind,), name) if kind in KINDS else (KINDS, one)
        if not name:  # which Path would take for the current folder
            raise UserError(f"--trusted has {one!r}, which names no key; give a file or a folder")
        keys = frozenset(read_public(file).signing for file in _public_files(expanded(name)))
        found |= {each: found.get(each, frozenset()) | keys for each in kinds}
    return Trust(found, **settings)


def _public_files(path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{PUBLIC}")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no {PUBLIC}; give a folder of public keys, or a key")
    return files


def _message(kind: Kind, content: bytes) -> bytes:
    if kind not in KINDS:
        raise ValueError(f"Expected one of {KINDS}, got {kind!r}")
    return f"privynet_jax {kind}\n".encode() + content
