"""What a public attacker believes of a release: its layer, its channels, and how strong each is.

    layers = public_layers(knowledge.network, pictures)
    believed = believe(knowledge.observed[:], pictures, layers)
    believed.layer, believed.channels

`public_attack` acts on it.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from privynet_jax.attacks.base import Network, Pairs, Representing, scaled
from privynet_jax.attacks.public.channel_statistics import (
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.attacks.public.consistency import check_guess
from privynet_jax.attacks.public.guessing import Guess, guess_layer
from privynet_jax.attacks.public.planted import misfits_of, products_of
from privynet_jax.attacks.public.public_layer import (
    LayerRows,
    PublicLayer,
    released_channels,
    rms_of,
)
from privynet_jax.backbone.features.extraction import LEAST_RELATIVE_RMS, scales_of
from privynet_jax.platform.devices import at_once

# Pictures, of the release and of its own, by which the guess is checked, at most and at least, and
# bytes of a layer.
_ASKED, _LEAST_ASKED, _ASKED_BYTES = 256, 4, 2**27
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Believed:
    """What the attacker believes of one release.

    Attributes:
        layer: the guessed number of layers.
        guess: of its channels.
        used: int [K], which released channels are used: those that are not known to be wrong.
        layer_rms: float [C], of all channels of that layer on the attacker's pictures, never zero.
        release_rms: float [K], how strong the release's are on the same pictures.
        width: channels with those that only fill up.
        measured: bool [K], of which of them how strong they are was measured on planted pictures.
    """

    layer: int
    guess: Guess
    used: np.ndarray
    layer_rms: np.ndarray
    release_rms: np.ndarray
    width: int
    measured: np.ndarray

    @property
    def channels(self) -> np.ndarray:
        """The guessed channels that are used, int [K]."""
        return np.asarray(self.guess.channels)[self.used]

    def normalised(self, release: np.ndarray) -> np.ndarray:
        """Returns representations float32 [N, h, w, width] of root mean square 1, as own ones."""
        scaled = np.zeros((*release.shape[:3], self.width), np.float32)
        scaled[..., : len(self.used)] = release[..., self.used] / np.float32(self.release_rms)
        return scaled

    def calibrated(self, gains: np.ndarray) -> "Believed":
        """Returns the same where what `normalised` gives was too weak by gains, float [width]."""
        return dataclasses.replace(self, release_rms=self.release_rms / gains[: len(self.used)])

    def of_pictures(self, public: PublicLayer, images: np.ndarray) -> np.ndarray:
        """Returns the same of any pictures, uint8 [N, H, W, 3], by the guessed layer."""
        scaled = np.zeros((len(images), *public.shape[:2], self.width), np.float32)
        for start in range(0, len(images), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            chosen = public.on(images[rows])[..., self.channels]
            scaled[rows, ..., : len(self.used)] = chosen / self.layer_rms[self.channels]
        return scaled

    def local(self, network: Network) -> Representing:
        """Returns the guessed local NN: images -> what `normalised` gives, differentiable."""
        scales = 1 / self.layer_rms[self.channels]
        return scaled(network[self.layer](self.channels), scales, self.width)


def public_layers(network: Network, pictures: np.ndarray) -> dict[int, PublicLayer]:
    """Returns all layers that a release may be of, on the attacker's pictures, by number."""
    return {n: PublicLayer(LayerRows(layer(None), pictures)) for n, layer in network.items()}


def believe(
    observed: np.ndarray,
    pictures: np.ndarray,
    layers: Mapping[int, PublicLayer],
    planted: Pairs | None = None,
) -> Believed:
    """Returns what the statistics of a release say, and what the release says to that.

    It is float [N, h, w, width]; pictures, uint8, are those of the layers. Where the attacker
    planted some of the release's pictures, these tell instead, but for channels that are silent on
    all of them. Errors are those of `guess_layer`.
    """
    width, depth = observed.shape[-1], released_channels(observed)
    observed = np.float32(observed[..., :depth])
    widest = max(layers.values(), key=lambda own: own.shape[-1])
    # At least four chunks, or nothing is known of how statistics vary from one to the next.
    size = chunk_size(min(len(observed), widest.count // 4), widest.shape)
    release = channel_statistics(chunks_of(observed, size))
    of_layers = {number: own.statistics(size) for number, own in layers.items()}
    products = products_of(planted, layers, depth) if planted else {}
    number, guess = guess_layer(release, of_layers, misfits_of(products) if planted else None)
    public, rms = layers[number], 1 / scales_of(of_layers[number].rms)
    guessed = list(guess.channels)
    of_release = np.maximum(rms_of(observed), LEAST_RELATIVE_RMS)
    # Those of the faintest channels, which a device does not bring to 1, own pictures' are not.
    of_own = np.maximum(of_layers[number].rms / rms, LEAST_RELATIVE_RMS)
    if planted:
        gains, everything = products[number].gains(guess.channels), np.arange(depth)
        measured = np.isfinite(gains)
        strong = np.where(measured, rms[guessed] * gains, of_release / of_own[guessed])
        return Believed(number, guess, everything, rms, strong, width, measured)
    count = max(_LEAST_ASKED, at_once(_ASKED, 4 * math.prod(public.shape), _ASKED_BYTES))
    checked = check_guess(
        guess.channels,
        observed[:count] * np.float32(of_own[guessed] / of_release),
        public.first(count) / rms,
        pictures[:count],
        lambda images: public.on(images) / rms,
    )
    guess = dataclasses.replace(guess, channels=tuple(map(int, checked.channels)))
    used = np.flatnonzero(checked.trusted)
    strong = (of_release / of_own[checked.channels])[used]
    return Believed(number, guess, used, rms, strong, width, np.zeros(len(used), bool))
