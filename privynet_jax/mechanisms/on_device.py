"""Mechanisms as a device runs them: by NumPy, with randomness that nobody can foretell.

    mechanism = OnDevice("gaussian:clip=1,sigma=0.5", unit=1.1, seed="ab" * 32)
    mechanism.released(images, represent)  # uint8 [N, H, W, 3] -> float32 [N, h, w, D]

They are those of `noises`, which is what was measured, and tests hold the two together. A picture's
randomness is SHAKE-256 of a secret seed and its pixels: however pictures are grouped and ordered,
and after a restart, it is the same. So what is released again of the same pixels is the same, too,
and nobody learns more from the mean of both. Noise is added in float64 and rounded to a grid much
finer than itself: the low bits of sums in floating point tell of what was added (Mironov 2012,
doi:10.1145/2382196.2382264). No JAX here.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Callable

import numpy as np

from privynet_jax.errors import UserError

NONE = "none"
_SIGNED = {"gaussian", "laplace", "arden"}
# Values become multiples of this power of two times the noise's scale, rounded down to one.
_GRID = 2.0**-8
_PURPOSE = b"privynet_jax: randomness of a picture\n"
# Of one picture: so many uniform numbers, float64 in (0, 1).
Draw = Callable[[int], np.ndarray]


class OnDevice:
    """A mechanism, or several that are combined, for the pictures of one package."""

    def __init__(self, words: str, unit: float, seed: str) -> None:
        """Takes `str(mechanism)`, what released values are divided by, and 64 hexadecimal digits.

        UserError: no device runs it.
        """
        self._steps = [_step(part) for part in re.split(r"\+(?=[a-z])", words)]
        self._unit, self._seed = unit, bytes.fromhex(seed)

    @property
    def is_signed(self) -> bool:
        """Whether what is released may be negative, as with noise."""
        names = [name for name, _ in self._steps]
        levels = len(names) - names[::-1].index("quantise") if "quantise" in names else 0
        return not _SIGNED.isdisjoint(names[levels:])

    def released(
        self, images: np.ndarray, represent: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Returns what is released of images, by the local NN's normalised representations."""
        if all(name == NONE for name, _ in self._steps):
            return represent(images)
        draws, changed = [self._draw(image) for image in images], images.copy()
        for place, draw in enumerate(draws):
            for _, given in self._steps:
                if nullify := given.get("nullify"):
                    changed[place] = _nullified(changed[place], draw, nullify)
        released = np.array(represent(changed))
        for place, draw in enumerate(draws):
            x = np.float64(released[place])
            for name, given in self._steps:
                own = {key: value for key, value in given.items() if key != "nullify"}
                x = _AFTER[name](x, draw, **own)
            released[place] = x / self._unit
        return released

    def _draw(self, image: np.ndarray) -> Draw:
        key = hmac.digest(self._seed, _PURPOSE + np.ascontiguousarray(image).tobytes(), "sha256")
        calls = iter(range(256))

        def draw(count: int) -> np.ndarray:
            stream = hashlib.shake_256(key + bytes([next(calls)])).digest(8 * count)
            # 52 bits, and half of one: neither 0 nor 1, whose logarithms are infinite.
            return ((np.frombuffer(stream, "<u8") >> np.uint64(12)) + 0.5) * 2.0**-52

        return draw


def _step(words: str) -> tuple[str, dict[str, float | str]]:
    """A mechanism's name and parameters."""
    name, _, given = words.partition(":")
    if name not in _AFTER:
        raise UserError(f"no device runs the mechanism {words!r}; allowed: {', '.join(_AFTER)}")
    pairs = (item.partition("=") for item in filter(None, given.split(",")))
    return name, {key: _read(value) for key, _, value in pairs}


def _read(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _nullified(image: np.ndarray, draw: Draw, nullify: float) -> np.ndarray:
    dropped = draw(image.shape[0] * image.shape[1]).reshape(*image.shape[:2], 1) < nullify
    return np.where(dropped, np.uint8(0), image)


def _clean(x: np.ndarray, draw: Draw) -> np.ndarray:
    return x


def _gaussian(x: np.ndarray, draw: Draw, clip: float, sigma: float) -> np.ndarray:
    x = np.maximum(x, 0)
    kept = _shrunk(x, float(np.linalg.norm(x)), clip * math.sqrt(x.size))
    first, second = draw(2 * x.size).reshape(2, *x.shape)  # Box and Muller 1958
    return _rounded(sigma, kept + sigma * np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second))


def _laplace(x: np.ndarray, draw: Draw, clip: float, scale: float) -> np.ndarray:
    kept = _shrunk(x, float(np.abs(x).sum()), clip * x.size)
    side = 2 * draw(x.size).reshape(x.shape) - 1
    return _rounded(scale, kept - scale * np.sign(side) * np.log1p(-np.abs(side)))


def _dropout(x: np.ndarray, draw: Draw, rate: float) -> np.ndarray:
    depth = x.shape[-1]
    dropped = np.argsort(draw(depth))[: round(rate * depth)]
    return np.where(np.isin(np.arange(depth), dropped), 0, x)


def _quantised(x: np.ndarray, draw: Draw, bits: float, peak: float, rounding: str) -> np.ndarray:
    steps = 2 ** int(bits) - 1
    places = np.clip(x / peak, 0, 1) * steps
    offset = draw(x.size).reshape(x.shape) if rounding == "stochastic" else 0.5
    return np.minimum(np.floor(places + offset), steps) * (peak / steps)


def _shrunk(x: np.ndarray, norm: float, bound: float) -> np.ndarray:
    return x * min(1.0, bound / norm) if norm else x


def _rounded(scale: float, x: np.ndarray) -> np.ndarray:
    if not scale:
        return x
    grid = _GRID * 2.0 ** math.floor(math.log2(scale))
    return np.round(x / grid) * grid


_AFTER: dict[str, Callable[..., np.ndarray]] = {
    NONE: _clean,
    "gaussian": _gaussian,
    "laplace": _laplace,
    "arden": _laplace,
    "dropout": _dropout,
    "quantise": _quantised,
}
