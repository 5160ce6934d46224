"""Mechanisms that blur a representation: noise on what is bounded, dropout, quantisation, Arden.

Representations are normalised: of root mean square about 1, and not negative, as a ReLU leaves
them. So that one setting means the same at all layers and depths, `clip` bounds the root mean
square (L2) or the mean magnitude (L1) of an image's whole representation; its norm is at most
clip * sqrt(values) or clip * values. None has a secret but its randomness: who knows the key
subtracts the noise.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.mechanisms.bounds import Noise, gaussian_noise, laplace_noise
from privynet_jax.mechanisms.guarantees import DELTA, gaussian_epsilon, laplace_epsilon
from privynet_jax.mechanisms.mechanism import Mechanism

_ROUNDINGS = ("nearest", "stochastic")
_MOST_BITS = 8
_TINY = np.finfo(np.float32).tiny


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Mechanism):
    """Gaussian noise on a representation of bounded L2 norm, without negative values.

    Attributes:
        clip: most root mean square of a representation; `inf` bounds nothing, guarantees nothing.
        sigma: standard deviation of the noise on each value.
    """

    is_random: ClassVar[bool] = True
    name: ClassVar[str] = "gaussian"
    not_planned: ClassVar[str] = ""
    clip: float = 1.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        self._check("clip", "more than 0", self.clip > 0)
        self._check("sigma", "0 or more", 0 <= self.sigma < math.inf)

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Clips, then adds the noise."""
        return self.expected(x) + self.sigma * jax.random.normal(key, x.shape, x.dtype)

    def expected(self, x: jax.Array) -> jax.Array:
        """Clips alone."""
        # A ReLU leaves none below zero; here it is made sure of, because `epsilon` counts on it.
        return clipped_l2(jnp.maximum(x, 0.0), self.clip * math.sqrt(x.size))

    @property
    def added_noise(self) -> Noise | None:
        """Gaussian."""
        return gaussian_noise(self.sigma)

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """By the analytic Gaussian mechanism."""
        # Of two representations of this norm at most, |x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>, and
        # <x, y> is not negative where no value is: sqrt(2) norms, not 2. Those that are zero in
        # different places are as far apart.
        distance = math.sqrt(2) * self.clip * math.sqrt(values)
        return gaussian_epsilon(distance, self.sigma, delta)


@dataclasses.dataclass(frozen=True)
class LaplaceNoise(Mechanism):
    """Laplace noise on a representation of bounded L1 norm.

    Attributes:
        clip: most mean magnitude of a representation; `inf` bounds nothing, guarantees nothing.
        scale: of the noise on each value; its standard deviation is sqrt(2) times as much.
    """

    is_random: ClassVar[bool] = True
    name: ClassVar[str] = "laplace"
    not_planned: ClassVar[str] = ""
    clip: float = 0.5
    scale: float = 0.5

    def __post_init__(self) -> None:
        self._check("clip", "more than 0", self.clip > 0)
        self._check("scale", "0 or more", 0 <= self.scale < math.inf)

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Clips, then adds the noise."""
        return self.expected(x) + self.scale * jax.random.laplace(key, x.shape, x.dtype)

    def expected(self, x: jax.Array) -> jax.Array:
        """Clips alone."""
        return clipped_l1(x, self.clip * x.size)

    @property
    def added_noise(self) -> Noise | None:
        """Laplace's."""
        return laplace_noise(self.scale)

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """With a delta of 0, whatever is asked."""
        # Twice the norm: in L1, those that are zero in different places are that far apart.
        return laplace_epsilon(2 * self.clip * values, self.scale)


@dataclasses.dataclass(frozen=True)
class Arden(LaplaceNoise):
    """Arden's way (Wang et al. 2018, arXiv:1809.03428): random pixels to zero, then bounded noise.

    The noise alone is what guarantees `epsilon` for two arbitrary images.

    Attributes:
        nullify: probability with which each pixel of the image becomes black.
    """

    name: ClassVar[str] = "arden"
    example: ClassVar[str] = "arden:nullify=0.2,clip=0.5,scale=0.2"
    changes_image: ClassVar[bool] = True
    nullify: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("nullify", "0 to 1", 0 <= self.nullify <= 1)

    def of_image(self, secret: Any, key: jax.Array, image: jax.Array) -> jax.Array:
        """Blackens pixels."""
        kept = jax.random.bernoulli(key, 1 - self.nullify, (*image.shape[:2], 1))
        return jnp.where(kept, image, 0.0)

    def expected_image(self, image: jax.Array) -> jax.Array:
        """Darker by the share of black pixels; what the local NN makes of it is near the mean."""
        return (1 - self.nullify) * image


@dataclasses.dataclass(frozen=True)
class NoisilyTrainedArden(Arden):
    """Arden as published: the cloud learns from pictures of its own, clean and noisy.

    Of each it has the clean representation, and as many noisy ones as `training_copies` leaves, and
    generates in every step a hard one of each that it learns from: Arden's noisy training.

    Attributes:
        hardness: how far up the loss each value of a hard copy lies, of a root mean square of
            about 1; 0 generates none.
    """

    name: ClassVar[str] = "arden_trained"
    not_planned: ClassVar[str] = "its cloud owns the pictures that it learns from"
    example: ClassVar[str] = "arden_trained:nullify=0.2,clip=0.5,scale=0.2"
    training_copies: ClassVar[int] = 5
    hardness: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("hardness", "0 or more", 0 <= self.hardness < math.inf)


@dataclasses.dataclass(frozen=True)
class ChannelDropout(Mechanism):
    """Zeroes other channels in every image; which ones, the receiver sees.

    Attributes:
        rate: share of the released channels that becomes zero, rounded to whole channels.
    """

    is_random: ClassVar[bool] = True
    name: ClassVar[str] = "dropout"
    not_planned: ClassVar[str] = ""
    rate: float = 0.5

    def __post_init__(self) -> None:
        self._check("rate", "0 to 1", 0 <= self.rate <= 1)

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Zeroes `round(rate * D)` channels."""
        dropped = round(self.rate * x.shape[-1])
        place = jax.random.permutation(key, x.shape[-1])
        return jnp.where(place >= dropped, x, 0.0)

    def expected(self, x: jax.Array) -> jax.Array:
        """Smaller by the share of zeros."""
        return (1 - round(self.rate * x.shape[-1]) / x.shape[-1]) * x


@dataclasses.dataclass(frozen=True)
class Quantisation(Mechanism):
    """Values become one of 2 ** bits levels, equally spaced from 0 to a peak; larger ones are cut.

    Attributes:
        bits: 1 to 8.
        peak: the highest level, in units of a channel's root mean square.
        rounding: "nearest", or "stochastic": up with the probability that keeps the mean.
    """

    name: ClassVar[str] = "quantise"
    not_planned: ClassVar[str] = ""
    example: ClassVar[str] = "quantise:bits=2,peak=3,rounding=stochastic"
    bits: int = 2
    peak: float = 3.0
    rounding: str = _ROUNDINGS[0]

    def __post_init__(self) -> None:
        self._check("bits", f"1 to {_MOST_BITS}", 1 <= self.bits <= _MOST_BITS)
        self._check("peak", "more than 0", 0 < self.peak < math.inf)
        self._check("rounding", " or ".join(_ROUNDINGS), self.rounding in _ROUNDINGS)

    @property
    def is_random(self) -> bool:
        """Whether it rounds at random."""
        return self.rounding == "stochastic"

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Rounds to the levels."""
        steps = 2**self.bits - 1
        places = jnp.clip(x / self.peak, 0.0, 1.0) * steps
        offset = jax.random.uniform(key, x.shape, x.dtype) if self.is_random else 0.5
        # In float32, the greatest place plus an offset just below 1 may round up to the next one.
        return jnp.minimum(jnp.floor(places + offset), steps) * (self.peak / steps)

    def expected(self, x: jax.Array) -> jax.Array:
        """Cuts alone, which has gradients; of stochastic rounding that is the mean."""
        return jnp.clip(x, 0.0, self.peak)


def clipped_l2(x: jax.Array, bound: float) -> jax.Array:
    """Returns x scaled down to an L2 norm of at most `bound`, where it is larger."""
    # In units of the largest value, since squares of float32 overflow and underflow soon. The norm
    # does not depend on its unit.
    unit = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(x)), _TINY))
    # The sum is 1 or more, but of zeros, where the root would have no derivative.
    squares = jnp.maximum(jnp.sum(jnp.square(x / unit)), 1.0)
    return x * _shrinking(unit * jnp.sqrt(squares), bound)


def clipped_l1(x: jax.Array, bound: float) -> jax.Array:
    """Returns x scaled down to an L1 norm of at most `bound`, where it is larger."""
    return x * _shrinking(jnp.sum(jnp.abs(x)), bound)


def _shrinking(norm: jax.Array, bound: float) -> jax.Array:
    # The smaller of 1 and bound / norm, in a form whose derivatives are finite for a norm of 0.
    return jnp.ones_like(norm) if math.isinf(bound) else bound / jnp.maximum(norm, bound)
