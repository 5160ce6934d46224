"""Keys: a pair that signs (Ed25519, RFC 8032) and a pair that is encrypted to (X25519, RFC 7748).

    make_keys(Path("clinic"))  # clinic.pub, for everybody, and clinic.key, which is secret
    key = read_private(Path("clinic.key"))
    public = read_public(Path("clinic.pub"))

Both files hold two blocks of PEM, as OpenSSL writes and reads them (PKCS #8 and
SubjectPublicKeyInfo). Here a public key is the hexadecimal of its 32 bytes. No JAX here, and the
cryptography package only where a key is used: devices that use none do without it.
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privynet_jax.errors import UserError
from privynet_jax.platform.files import new_file, write_shared

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PRIVATE, PUBLIC = ".key", ".pub"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_MOST_BYTES = 2**16
_SHOWN = 20  # digits that tell keys apart for people: 80 bits


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """What others know of somebody: 64 hexadecimal digits of each pair."""

    signing: str
    sealing: str

    def __str__(self) -> str:
        # Both: nothing but the file that they came in binds them together.
        return f"signs as {shown(self.signing)}, and reads what is for {shown(self.sealing)}"


@dataclasses.dataclass(frozen=True)
class PrivateKey:
    """What somebody alone has."""

    signing: "Ed25519PrivateKey" = dataclasses.field(repr=False)
    sealing: "X25519PrivateKey" = dataclasses.field(repr=False)

    @property
    def public(self) -> PublicKey:
        """Its other half."""
        return PublicKey(_raw(self.signing.public_key()), _raw(self.sealing.public_key()))


def shown(key: str) -> str:
    """Returns what a person compares of a public key."""
    return key[:_SHOWN]


def library(module: str) -> Any:
    """Returns a module of the cryptography package; UserError where that is not installed."""
    import importlib

    try:
        return importlib.import_module(f"cryptography.{module}")
    except ImportError:
        raise UserError(
            "keys need the cryptography package, 47 or later; pip install 'cryptography>=47', or "
            "leave out the flags that name keys"
        ) from None


def make_keys(base: Path) -> PrivateKey:
    """Writes BASE.pub, and BASE.key, readable by the user alone; UserError where one is there."""
    for suffix in (PRIVATE, PUBLIC):
        new_file("out", f"{base}{suffix}", "give another name")
    key = PrivateKey(
        library("hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey.generate(),
        library("hazmat.primitives.asymmetric.x25519").X25519PrivateKey.generate(),
    )
    forms = library("hazmat.primitives.serialization")
    pem, none = forms.Encoding.PEM, forms.NoEncryption()
    pairs = (key.signing, key.sealing)
    secret = [pair.private_bytes(pem, forms.PrivateFormat.PKCS8, none) for pair in pairs]
    told = [
        pair.public_key().public_bytes(pem, forms.PublicFormat.SubjectPublicKeyInfo)
        for pair in pairs
    ]
    # A kill between the two leaves what nobody misses; and nobody's key is replaced.
    for suffix, blocks in {PUBLIC: told, PRIVATE: secret}.items():
        path, content = Path(f"{base}{suffix}"), b"".join(blocks)
        write_shared(path, [content], replace=False, private=suffix == PRIVATE)
        if path.read_bytes() != content:
            raise UserError(f"{path} appeared meanwhile, and is not replaced; give another name")
    return key


def read_private(path: Path) -> PrivateKey:
    """Returns the key of a file that `make_keys` wrote; UserError for any other."""
    advice = "give the .key that experiments.keys wrote"
    forms = library("hazmat.primitives.serialization")
    pairs = [
        _loaded(path, block, lambda block: forms.load_pem_private_key(block, None), advice)
        for block in _blocks(path, "PRIVATE KEY", advice)
    ]
    return PrivateKey(*_as_made(path, pairs, "PrivateKey", advice))


def read_public(path: Path) -> PublicKey:
    """Returns the key of a file that `make_keys` wrote; UserError for any other."""
    advice = "give the .pub that experiments.keys wrote"
    load = library("hazmat.primitives.serialization").load_pem_public_key
    pairs = [_loaded(path, block, load, advice) for block in _blocks(path, "PUBLIC KEY", advice)]
    return PublicKey(*map(_raw, _as_made(path, pairs, "PublicKey", advice)))


def _blocks(path: Path, label: str, advice: str) -> list[bytes]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {advice}") from None
    found = list(_BLOCK.finditer(content))
    others = {block[1].decode() for block in found} - {label}
    if others or len(found) != 2:
        what = f"a {min(others).lower()}" if others else "no pair of keys"
        if "ENCRYPTED PRIVATE KEY" in others:
            what = "a private key with a password, which nobody here asks for"
        raise UserError(f"{path} holds {what}; {advice}")
    return [block[0] for block in found]


def _loaded(path: Path, block: bytes, load: Any, advice: str) -> Any:
    try:
        return load(block)
    except (ValueError, TypeError, library("exceptions").UnsupportedAlgorithm):
        raise UserError(f"{path} holds no key that can be read; {advice}") from None


def _as_made(path: Path, pairs: list[Any], kind: str, advice: str) -> list[Any]:
    """The pairs, if they are of the two kinds, in order."""
    asymmetric = "hazmat.primitives.asymmetric"
    kinds = [
        getattr(library(f"{asymmetric}.{name.lower()}"), f"{name}{kind}")
        for name in ("Ed25519", "X25519")
    ]
    if not all(isinstance(pair, of) for pair, of in zip(pairs, kinds, strict=True)):
        raise UserError(f"{path} holds keys of another kind; {advice}")
    return pairs


def _raw(key: Any) -> str:
    return key.public_bytes_raw().hex()
