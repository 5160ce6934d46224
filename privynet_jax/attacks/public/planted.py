"""What a few pictures that an attacker planted in a release tell of its layer and its channels.

On pictures that both have, a released channel is a multiple of one channel of the published layer.
So each is compared with all of them there, and which it is, and the multiple, need no statistics:
one picture tells both, but for channels that are silent on it.

    products = products_of(knowledge.planted, layers, depth=16)
    layer, guess = guess_layer(statistics_of_release, of_layers, misfits_of(products))
    products[layer].gains(guess.channels)  # float64 [D], NaN where a channel was silent
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from privynet_jax.attacks.base import Pairs
from privynet_jax.attacks.public.public_layer import PublicLayer
from privynet_jax.platform.devices import at_once

# Of a channel's energy, the share that rounding may leave unexplained: float16 leaves 1e-7.
_ROUNDING = 1e-6
# Pictures whose maps are compared at once, and bytes of a layer's in float64.
_AT_ONCE, _BYTES_AT_ONCE = 64, 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """Sums over all positions of planted pictures' maps, of released channels and a layer's.

    Attributes:
        values: how many positions of maps these are.
        released: float64 [D], of the squares of what was released.
        own: float64 [C], of the squares of what the layer gives.
        both: float64 [D, C], of the products of one and the other.
    """

    values: int
    released: np.ndarray
    own: np.ndarray
    both: np.ndarray

    def gains(self, channels: Sequence[int]) -> np.ndarray:
        """Returns by what each released channel's own one, int [D], was multiplied, float64 [D].

        By least squares; NaN where the pictures leave it silent.
        """
        chosen = np.asarray(channels)
        both = self.both[np.arange(len(chosen)), chosen]
        return np.divide(both, self.own[chosen], out=np.full(len(both), np.nan), where=both > 0)

    def misfits(self) -> np.ndarray:
        """Returns how badly multiples of each channel of the layer fit, float64 [D, C].

        As -2 times the logarithm of the likelihood under Gaussian noise, up to a constant.
        """
        energies = np.outer(self.released, self.own)
        # A silent channel is explained by silent ones alone.
        silent = np.equal.outer(self.released > 0, self.own > 0)
        explained = np.divide(self.both**2, energies, out=np.float64(silent), where=energies > 0)
        return self.values * np.log(np.maximum(1 - explained, _ROUNDING))


def products_of(
    planted: Pairs, layers: Mapping[int, PublicLayer], depth: int
) -> dict[int, Products]:
    """Returns the products with each layer, by number, of the first `depth` channels released."""
    found = {number: [0, 0.0, 0.0, 0.0] for number in layers}
    widest = max(math.prod(layer.shape) for layer in layers.values())
    count = at_once(_AT_ONCE, 8 * widest, _BYTES_AT_ONCE)
    for start in range(0, len(planted.images), count):
        rows = slice(start, start + count)
        released = _flat(planted.representations[rows][..., :depth])
        for number, layer in layers.items():
            own = _flat(layer.on(planted.images[rows]))
            squares = (np.square(x).sum(axis=0) for x in (released, own))
            sums = (len(own), *squares, released.T @ own)
            found[number] = [old + new for old, new in zip(found[number], sums, strict=True)]
    return {number: Products(*sums) for number, sums in found.items()}


def misfits_of(products: Mapping[int, Products]) -> dict[int, np.ndarray]:
    """Returns the misfits for each layer, above each released channel's least of all layers."""
    misfits = {number: own.misfits() for number, own in products.items()}
    least = np.min([own.min(axis=1) for own in misfits.values()], axis=0)
    return {number: own - least[:, None] for number, own in misfits.items()}


def _flat(maps: np.ndarray) -> np.ndarray:
    return np.float64(maps).reshape(-1, maps.shape[-1])
