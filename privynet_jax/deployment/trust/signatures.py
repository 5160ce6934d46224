"""Signatures: who made a package, a release, a classifier or a revocation.

    sign(Path("classifier/classifier.json"), "classifier", key)
    signer = trust.check("classifier", Path("classifier/classifier.json"))

Signed is the one file that says what all others must be: it lists their digests, and is verified
against them by whoever opens it. The signature, Ed25519's, lies beside it, and is of what it
signs: nobody can pass the signature of a release off as that of a package. No JAX here.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from privynet_jax.deployment.trust.keys import PUBLIC, PrivateKey, library, read_public, shown
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Hex64, read_document, write_document
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
class Trust:
    """What is accepted.

    Attributes:
        keys: public keys whose signatures are.
        unsigned: whether what has no signature is, too; without any keys, whatever its signature.
    """

    keys: frozenset[str] = frozenset()
    unsigned: bool = False

    def check(self, kind: Kind, file: Any, signature: Any = None) -> str:
        """Returns the public key that signed a file, nothing where nobody has to; or refuses.

        Args:
            kind: what the file makes known.
            file: a path, or what opens and exists like one; of a missing one its reader tells.
            signature: likewise, of the signature; beside the file by default.

        Raises:
            UserError: nobody signed, or somebody who is not trusted, or something else.
        """
        signature = beside(file) if signature is None else signature
        if not file.exists() or (self.unsigned and not (self.keys and signature.exists())):
            return ""
        what = f"the {kind} {file}"
        if not signature.exists():
            raise UserError(
                f"{what} is not signed; ask whoever made it to sign it, or give --unsigned to "
                "take it from anybody"
            )
        found = read_document(signature, Signature, _VERSION, "copy it again", what="signature")
        if found.key not in self.keys:
            others = sorted(map(shown, self.keys))
            named = ", ".join(others[:_MOST_NAMED]) + (", ..." if others[_MOST_NAMED:] else "")
            raise UserError(
                f"{what} is signed by {shown(found.key)}, and trusted are {named or 'none'}; give "
                "--trusted=FILE.pub of somebody whom you trust, if that is who made it"
            )
        with file.open("rb") as opened:
            message = _message(kind, opened.read())
        keys = library("hazmat.primitives.asymmetric.ed25519")
        try:
            public = keys.Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.key))
            public.verify(bytes.fromhex(found.signature), message)
        except (ValueError, library("exceptions").InvalidSignature):
            raise UserError(
                f"{what} is not what {shown(found.key)} signed; it was changed since then, so "
                "copy it again, or ask for it again"
            ) from None
        return found.key


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
    private = not file.stat().st_mode & 0o077
    document = Signature(key.public.signing, signature)
    write_document(beside(file), document, _VERSION, private=private)


def read_trusted(paths: Iterable[Path]) -> frozenset[str]:
    """Returns the public keys of files, and of all such files in folders; UserError for others."""
    found = set()
    for path in paths:
        files = sorted(path.glob(f"*{PUBLIC}")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no {PUBLIC}; give a folder of public keys, or a key")
        found |= {read_public(file).signing for file in files}
    return frozenset(found)


def _message(kind: Kind, content: bytes) -> bytes:
    if kind not in KINDS:
        raise ValueError(f"Expected one of {KINDS}, got {kind!r}")
    return f"privynet_jax {kind}\n".encode() + content
