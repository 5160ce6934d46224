"""Defences: what the device may do to a representation, or to the image, before it releases.

Each is a frozen dataclass of its parameters with two pure functions of one image: `of_image` comes
before the local NN and `of_representation` after it. `defended` puts them around it.

    defence = parse_defence("gaussian:clip=1,sigma=0.5")
    defence.of_representation(key, x)  # float32 [h, w, D], as x
    defence.epsilon(values=16 * 16 * 16)  # of one image's release, at delta 1e-5

Representations are normalised: of root mean square about 1, and not negative, as a ReLU leaves
them. So that one setting means the same at all layers and depths, `clip` bounds the root mean
square (L2) or the mean magnitude (L1) of an image's whole representation; its norm is at most
clip * sqrt(values) or clip * values.

Everything random comes from the release's key and the image's row: a release can be continued,
does not depend on batches, and holds one draw per image. Who knows the key subtracts the noise.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.defences.guarantees import DELTA, gaussian_epsilon, laplace_epsilon
from privynet_jax.errors import UserError

_ROUNDINGS = ("nearest", "stochastic")
_MOST_BITS = 8
_TINY = np.finfo(np.float32).tiny


@dataclasses.dataclass(frozen=True)
class Defence:
    """What the device does to one image and to its representation; this one changes neither.

    Attributes:
        name: the word for it in flags and tables.
        example: of its word and parameters, where its defaults are none to show.
        changes_image: whether `of_image` does anything; else cached representations serve.
    """

    name: ClassVar[str] = ""
    example: ClassVar[str] = ""
    changes_image: ClassVar[bool] = False

    def of_image(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """float32 [H, W, 3] in [0, 1] -> the same; from a key of this image alone."""
        return image

    def of_representation(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Normalised representation float32 [h, w, D] -> the same; from a key of this image."""
        return x

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """Returns what one release of `values` numbers guarantees (`guarantees`), or infinity."""
        return math.inf

    def __str__(self) -> str:
        """The form that `parse_defence` reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = ",".join(f"{name}={_told(value)}" for name, value in fields.items())
        return f"{self.name}:{given}" if given else self.name

    def _check(self, field: str, allowed: str, is_allowed: bool) -> None:
        if not is_allowed:
            raise UserError(
                f"defence {self.name} has {field}={getattr(self, field)}; allowed: {allowed}; "
                f"for example {self.example or type(self)()}"
            )


@dataclasses.dataclass(frozen=True)
class Undefended(Defence):
    """Nothing beyond the split itself: PrivyNet's own way."""

    name: ClassVar[str] = "none"


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Defence):
    """Gaussian noise on a representation of bounded L2 norm, without negative values.

    Attributes:
        clip: most root mean square of a representation; `inf` bounds nothing, guarantees nothing.
        sigma: standard deviation of the noise on each value.
    """

    name: ClassVar[str] = "gaussian"
    clip: float = 1.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        self._check("clip", "more than 0", self.clip > 0)
        self._check("sigma", "0 or more", 0 <= self.sigma < math.inf)

    def of_representation(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Clips, then adds the noise."""
        # A ReLU leaves none below zero; here it is made sure of, because `epsilon` counts on it.
        clipped = clipped_l2(jnp.maximum(x, 0.0), self.clip * math.sqrt(x.size))
        return clipped + self.sigma * jax.random.normal(key, x.shape, x.dtype)

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """By the analytic Gaussian mechanism."""
        # Of two representations of this norm at most, |x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>, and
        # <x, y> is not negative where no value is: sqrt(2) norms, not 2. Those that are zero in
        # different places are as far apart.
        distance = math.sqrt(2) * self.clip * math.sqrt(values)
        return gaussian_epsilon(distance, self.sigma, delta)


@dataclasses.dataclass(frozen=True)
class LaplaceNoise(Defence):
    """Laplace noise on a representation of bounded L1 norm.

    Attributes:
        clip: most mean magnitude of a representation; `inf` bounds nothing, guarantees nothing.
        scale: of the noise on each value; its standard deviation is sqrt(2) times as much.
    """

    name: ClassVar[str] = "laplace"
    clip: float = 0.5
    scale: float = 0.5

    def __post_init__(self) -> None:
        self._check("clip", "more than 0", self.clip > 0)
        self._check("scale", "0 or more", 0 <= self.scale < math.inf)

    def of_representation(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Clips, then adds the noise."""
        noise = jax.random.laplace(key, x.shape, x.dtype)
        return clipped_l1(x, self.clip * x.size) + self.scale * noise

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

    def of_image(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Blackens pixels."""
        kept = jax.random.bernoulli(key, 1 - self.nullify, (*image.shape[:2], 1))
        return jnp.where(kept, image, 0.0)


@dataclasses.dataclass(frozen=True)
class ChannelDropout(Defence):
    """Zeroes other channels in every image; which ones, the receiver sees.

    Attributes:
        rate: share of the released channels that becomes zero, rounded to whole channels.
    """

    name: ClassVar[str] = "dropout"
    rate: float = 0.5

    def __post_init__(self) -> None:
        self._check("rate", "0 to 1", 0 <= self.rate <= 1)

    def of_representation(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Zeroes `round(rate * D)` channels."""
        dropped = round(self.rate * x.shape[-1])
        place = jax.random.permutation(key, x.shape[-1])
        return jnp.where(place >= dropped, x, 0.0)


@dataclasses.dataclass(frozen=True)
class Quantisation(Defence):
    """Values become one of 2 ** bits levels, equally spaced from 0 to a peak; larger ones are cut.

    Attributes:
        bits: 1 to 8.
        peak: the highest level, in units of a channel's root mean square.
        rounding: "nearest", or "stochastic": up with the probability that keeps the mean.
    """

    name: ClassVar[str] = "quantise"
    example: ClassVar[str] = "quantise:bits=2,peak=3,rounding=stochastic"
    bits: int = 2
    peak: float = 3.0
    rounding: str = _ROUNDINGS[0]

    def __post_init__(self) -> None:
        self._check("bits", f"1 to {_MOST_BITS}", 1 <= self.bits <= _MOST_BITS)
        self._check("peak", "more than 0", 0 < self.peak < math.inf)
        self._check("rounding", " or ".join(_ROUNDINGS), self.rounding in _ROUNDINGS)

    def of_representation(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Rounds to the levels."""
        steps = 2**self.bits - 1
        places = jnp.clip(x / self.peak, 0.0, 1.0) * steps
        is_random = self.rounding == "stochastic"
        offset = jax.random.uniform(key, x.shape, x.dtype) if is_random else 0.5
        # In float32, the greatest place plus an offset just below 1 may round up to the next one.
        return jnp.minimum(jnp.floor(places + offset), steps) * (self.peak / steps)


def clipped_l2(x: jax.Array, bound: float) -> jax.Array:
    """Returns x scaled down to an L2 norm of at most `bound`, where it is larger."""
    # In units of the largest value, since squares of float32 overflow and underflow soon.
    unit = jnp.maximum(jnp.max(jnp.abs(x)), _TINY)
    return x * _shrinking(unit * jnp.sqrt(jnp.sum(jnp.square(x / unit))), bound)


def clipped_l1(x: jax.Array, bound: float) -> jax.Array:
    """Returns x scaled down to an L1 norm of at most `bound`, where it is larger."""
    return x * _shrinking(jnp.sum(jnp.abs(x)), bound)


def parse_defence(text: str) -> Defence:
    """Returns the defence that a word and its parameters name, as in `laplace:clip=1,scale=0.5`.

    What is not given has its default; `none` is no defence.

    Raises:
        UserError: the word, a parameter or a value is not one of those allowed.
    """
    word, _, given = text.strip().partition(":")
    if word not in _KINDS:
        raise UserError(
            f"defence {text!r}; allowed are {', '.join(_KINDS)}; for example {GaussianNoise()}"
        )
    kind, values = _KINDS[word], {}
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    readers = dict(fields)
    for item in filter(None, given.split(",")):
        name, _, value = (side.strip() for side in item.partition("="))
        try:
            # Taken out, so that nothing can be given twice.
            values[name] = readers.pop(name)(value)
        except (KeyError, ValueError):
            raise UserError(
                f"defence {text!r}: {item!r} cannot be used; {word} takes "
                f"{', '.join(fields) or 'no parameters'}, each once; "
                f"for example {kind.example or kind()}"
            ) from None
    return kind(**values)


def parse_defences(text: str) -> tuple[Defence, ...]:
    """Returns the defences of a list, separated by commas like their own parameters.

    Raises:
        UserError: one of them is wrong or given twice, or there is none.
    """
    found: list[str] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        # A parameter belongs to the defence before it: only that has a colon, or no sign at all.
        if found and "=" in item and ":" not in item:
            found[-1] += f",{item}"
        else:
            found.append(item)
    defences = tuple(map(parse_defence, found))
    if not defences or len(set(defences)) < len(defences):
        raise UserError(
            f"defences {text!r}: expected at least one, each once; for example none,"
            f"{GaussianNoise()},{ChannelDropout()}"
        )
    return defences


def _shrinking(norm: jax.Array, bound: float) -> jax.Array:
    # Zeros have no direction; they are within every bound.
    return jnp.minimum(1.0, bound / jnp.maximum(norm, _TINY))


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"


_KINDS = {
    kind.name: kind
    for kind in (Undefended, GaussianNoise, LaplaceNoise, Arden, ChannelDropout, Quantisation)
}
