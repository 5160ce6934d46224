"""RMT: blocks of a picture are exchanged, and each is multiplied by a secret orthogonal matrix.

Sharma and Chen, Disguised-Nets (arXiv:1902.01878; doi:10.1145/3609506): block i of a colour X_i, of
levels 0 to 255, is released as (X_i + N_i) R_i, where noise N_i of whole numbers is the picture's
own, and matrices R_i are the same for all pictures.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.mechanisms.disguises.alignment import Alignment
from privynet_jax.mechanisms.disguises.blocks import (
    Secret,
    block_count,
    exchanged,
    from_blocks,
    put_back,
    to_blocks,
)
from privynet_jax.mechanisms.disguises.least_squares import LeastSquares
from privynet_jax.mechanisms.disguises.undoing import BySecret, seen_through
from privynet_jax.mechanisms.mechanism import Mechanism

_PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Rmt(Mechanism):
    """Exchanged blocks, each rotated.

    Attributes:
        block: side of a block in pixels; it divides the picture's sides.
        noise: greatest of the whole numbers, from 0 on, of which one is added to each level.
    """

    name: ClassVar[str] = "rmt"
    changes_image: ClassVar[bool] = True
    releases_pictures: ClassVar[bool] = True
    block: int = 4
    noise: int = 0

    def __post_init__(self) -> None:
        self._check("block", "2 or more", self.block >= 2)
        self._check("noise", "0 to 255", 0 <= self.noise <= 255)

    def check(self, shape: tuple[int, ...]) -> None:
        """Blocks fit into pictures."""
        block_count(self, shape, self.block)

    @property
    def is_random(self) -> bool:
        """Whether it adds noise."""
        return self.noise > 0

    def secret(self, key: jax.Array, public: np.ndarray) -> Secret:
        """Returns the places, and uniform orthogonal matrices [B, 3, block, block], by block."""
        shape, (places, matrices) = public.shape[1:], jax.random.split(key)
        count = block_count(self, shape, self.block)
        order = jax.random.permutation(places, count)
        return Secret(order, jax.random.orthogonal(matrices, self.block, (count, shape[-1])))

    def of_image(self, secret: Secret, key: jax.Array, image: jax.Array) -> jax.Array:
        """Disguises; the result, float32 [H, W, 3], is in units of 255 levels and of any sign."""
        blocks = to_blocks(self.noisy(key, image), self.block)
        rotated = jnp.matmul(blocks, secret.parts, precision=_PRECISION)
        return from_blocks(exchanged(secret, rotated), image.shape[1])

    def noisy(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Adds the noise, before anything else."""
        return image + jax.random.randint(key, image.shape, 0, self.noise + 1) / 255

    def undone(self, secret: Secret, released: jax.Array) -> jax.Array:
        """Turns back and puts back, exactly but for rounding; the noise stays."""
        blocks = put_back(secret, to_blocks(released, self.block))
        back = jnp.swapaxes(secret.parts, -1, -2)
        turned = jnp.matmul(blocks, back, precision=_PRECISION)
        return from_blocks(turned, released.shape[-2])

    def macs(self, shape: tuple[int, ...], topology: Any) -> int:
        """One product with a matrix for each row of each block."""
        return shape[0] * shape[1] * shape[2] * self.block

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """Least squares on pairs; second moments without; the matrices themselves."""
        undoing = LeastSquares(self.block), Alignment(self), BySecret(self)
        return tuple(seen_through(each, network) for each in undoing)
