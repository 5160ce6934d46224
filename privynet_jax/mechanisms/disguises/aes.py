"""AES: blocks of a picture are exchanged, and each is encrypted, alike wherever it is alike.

Sharma and Chen, Disguised-Nets (arXiv:1902.01878): the 16 bytes of a 4 x 4 block of one colour are
one block of AES-128 in the mode ECB (FIPS 197, NIST SP 800-38A). Equal blocks stay equal, which is
what a network can learn from, and what a codebook takes.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.disguises.blocks import (
    Secret,
    block_count,
    exchanged,
    from_blocks,
    put_back,
    to_blocks,
)
from privynet_jax.mechanisms.disguises.codebook import SIDE, Codebook, Frequencies
from privynet_jax.mechanisms.disguises.undoing import BySecret, seen_through
from privynet_jax.mechanisms.mechanism import Mechanism

_KEYS = ("one", "each")
_KEY_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Aes(Mechanism):
    """Exchanged blocks, each encrypted.

    Attributes:
        keys: "one" for all blocks, or "each" place of the release with its own.
    """

    name: ClassVar[str] = "aes"
    changes_image: ClassVar[bool] = True
    releases_pictures: ClassVar[bool] = True
    keys: str = _KEYS[0]

    def __post_init__(self) -> None:
        self._check("keys", " or ".join(_KEYS), self.keys in _KEYS)
        _library()

    def check(self, shape: tuple[int, ...]) -> None:
        """Sides are multiples of 4."""
        block_count(self, shape, SIDE)

    def secret(self, key: jax.Array, public: np.ndarray) -> Secret:
        """Returns the places, and keys, uint8 [1 or B, 16], the latter by place of the release."""
        count, (places, ciphers) = block_count(self, public.shape[1:], SIDE), jax.random.split(key)
        keys = count if self.keys == "each" else 1
        order = jax.random.permutation(places, count)
        return Secret(order, jax.random.bits(ciphers, (keys, _KEY_BYTES), jnp.uint8))

    def of_image(self, secret: Secret, key: jax.Array, image: jax.Array) -> jax.Array:
        """Encrypts the levels, whole numbers; the result is 0 to 1 in levels of 255, too."""
        levels = jnp.round(255 * image).astype(jnp.uint8)
        blocks = exchanged(secret, to_blocks(levels, SIDE))
        return from_blocks(_crypted(True, blocks, secret.parts), image.shape[-2]) / 255

    def undone(self, secret: Secret, released: jax.Array) -> jax.Array:
        """Decrypts and puts back: the very levels."""
        levels = jnp.round(255 * released).astype(jnp.uint8)
        blocks = _crypted(False, to_blocks(levels, SIDE), secret.parts)
        return from_blocks(put_back(secret, blocks), released.shape[-2]) / 255

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """A codebook of pairs; how often blocks occur; the keys themselves."""
        each = self.keys == "each"
        undoing = Codebook(each), Frequencies(each), BySecret(self)
        return tuple(seen_through(one, network) for one in undoing)


def _crypted(encrypting: bool, blocks: jax.Array, keys: jax.Array) -> jax.Array:
    host = functools.partial(_on_host, encrypting)
    shape = jax.ShapeDtypeStruct(blocks.shape, jnp.uint8)
    return jax.pure_callback(host, shape, blocks, keys, vmap_method="expand_dims")


def _on_host(encrypting: bool, blocks: Any, keys: Any) -> np.ndarray:
    """Blocks uint8 [..., B, 3, 4, 4], with keys [..., 1 or B, 16], of which all are the same."""
    blocks, keys = np.asarray(blocks), np.asarray(keys)
    keys = keys.reshape(-1, *keys.shape[-2:])[0]
    found = np.empty_like(blocks)
    algorithms, modes, cipher = _library()
    for place in range(len(keys)):
        chosen = slice(None) if len(keys) == 1 else slice(place, place + 1)
        own = np.ascontiguousarray(blocks[..., chosen, :, :, :])
        made = cipher(algorithms.AES(keys[place].tobytes()), modes.ECB())
        context = made.encryptor() if encrypting else made.decryptor()
        done = context.update(own.tobytes()) + context.finalize()
        found[..., chosen, :, :, :] = np.frombuffer(done, np.uint8).reshape(own.shape)
    return found


def _library() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ModuleNotFoundError:
        raise UserError(
            "the mechanism aes needs the cryptography package; pip install 'cryptography>=47', or "
            "leave it out"
        ) from None
    return algorithms, modes, Cipher
