"""A cloud NN that commutes with turns, and the device's decoder, as one network to train.

Its layers have real weights, the same for all parts, and no biases; what is not linear multiplies
all parts of a value by a function of their modulus (Xiang et al., arXiv:1901.09546; of quaternions
Zhang et al., arXiv:2006.13016). So turned features come back as turned answers, and the device
turns back and decodes: who answers learns no class.

    network = EquivariantNN(num_classes=30, image_size=32, parts=2)
    logits = network.apply(variables, asked)  # of [N, h, w, P * D + P]
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from privynet_jax.images.depth_and_space import depth_to_space, space_to_depth
from privynet_jax.mechanisms.rotations.turns import turned_back, unpacked
from privynet_jax.training.models.grid_sizes import folding_of
from privynet_jax.training.models.networks import Conv, Dense

_USUAL_DEPTH, _WIDTH = 32, 64
# Numbers of an answer's every part.
ANSWER_WIDTH = 2 * _WIDTH
_TINY = 1e-12


def modulus(x: jax.Array) -> jax.Array:
    """Returns that of each value over its parts: [N, P, ...] -> [N, 1, ...], differentiable."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True) + _TINY)


def modulus_relu(x: jax.Array) -> jax.Array:
    """Returns |f| / max(|f|, 1) f (arXiv:1901.09546): small values shrink, others stay."""
    size = modulus(x)
    return size / jnp.maximum(size, 1.0) * x


def compressed(x: jax.Array) -> jax.Array:
    """Returns f log(1 + |f|) / |f|, against heavy tails."""
    size = modulus(x)
    return jnp.log1p(size) / size * x


def normalised(x: jax.Array) -> jax.Array:
    """Returns float32 [N, P, C] over its root mean square: a norm without a mean."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True) + _TINY)


class EquivariantBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; it starts as the identity."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, P, h, w, width] -> the same."""
        y = Conv(self.width, (3, 3), use_bias=False)(modulus_relu(x))
        zeros = nn.initializers.zeros
        return x + Conv(self.width, (3, 3), use_bias=False, kernel_init=zeros)(modulus_relu(y))


class CloudSide(nn.Module):
    """Turned features -> turned answer: what runs in the cloud, like `networks.CloudNN`."""

    image_size: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, P, h, w, D] -> float32 [N, P, 2 * width]; of R f it is R of that of f."""
        x = EquivariantBlock(self.width)(self._on_working_grid(compressed(x)))
        shrunk = Conv(2 * self.width, (2, 2), strides=(2, 2), use_bias=False)
        x = EquivariantBlock(2 * self.width)(shrunk(modulus_relu(x)))
        return normalised(x.mean(axis=(2, 3)))

    def _on_working_grid(self, x: jax.Array) -> jax.Array:
        """[N, P, h, w, D] -> [N, P, S / 4, S / 4, width], as `networks.WorkingGrid` does."""
        folding, unfolding = folding_of(x.shape[2], self.image_size)
        spread = nn.initializers.normal((_USUAL_DEPTH * folding**2) ** -0.5)
        width = unfolding**2 * self.width
        stem = Dense(width, use_bias=False, kernel_init=spread, name="stem")
        flat = x.reshape(-1, *x.shape[2:])
        flat = depth_to_space(stem(space_to_depth(flat, folding)), self.width)
        return flat.reshape(*x.shape[:2], *flat.shape[1:])


class Decoder(nn.Module):
    """An answer that was turned back -> logits: what runs on the device."""

    num_classes: int

    @nn.compact
    def __call__(self, answer: jax.Array) -> jax.Array:
        """float32 [N, C] -> float32 [N, num_classes]."""
        x = nn.relu(Dense(answer.shape[-1])(answer))
        return Dense(self.num_classes)(x)


class EquivariantNN(nn.Module):
    """What the device asks with -> logits: there and back.

    Attributes:
        num_classes: length of the logits.
        image_size: side of the images, in pixels.
        parts: of a value, two or three.
        width: channels on the working grid, as `networks.CloudNN`.
    """

    num_classes: int
    image_size: int = 32
    parts: int = 2
    width: int = _WIDTH

    @nn.compact
    def __call__(self, asked: jax.Array) -> jax.Array:
        """float32 [N, h, w, P * D + P], what is kept in the last channels -> [N, num_classes]."""
        z, kept = asked[..., : -self.parts], asked[:, 0, 0, -self.parts :]
        answer = CloudSide(self.image_size, self.width)(unpacked(z, self.parts))
        return Decoder(self.num_classes)(turned_back(kept, answer))
