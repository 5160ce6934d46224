"""The attacker of class `public`, composed: it needs nothing secret, and asks nobody.

It knows the published weights, owns pictures without representations, and sees the release. From
the release's statistics it guesses layer and channels (`guessing`); with these it makes pairs
without end of its own pictures (`made_pairs`), trains an inverse network on them, and optimises
each picture under the guessed local NN from where the network ends (`white_box`), as far as that
helped on pictures of its own.

    attack = PublicAttack(InverseNetwork("strong", (CAPACITIES["strong"],), Training()))
    [fitted] = attack.fit([scene.pairs(NETWORK)], [scene.knowledge(NETWORK)], [key])
    fitted.report["guessed_layer"], fitted.report["guess"].channels
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from privynet_jax.attacks.base import (
    NETWORK,
    FittedAttack,
    Knowledge,
    Network,
    Pairs,
    Representing,
    check_count,
)
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.public.channel_statistics import (
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.attacks.public.guessing import Guess, guess_layer
from privynet_jax.attacks.public.made_pairs import PairMaker
from privynet_jax.attacks.public.public_layer import (
    LayerRows,
    PublicLayer,
    released_channels,
    rms_of,
)
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone.features.extraction import LEAST_RELATIVE_RMS, scales_of
from privynet_jax.errors import UserError
from privynet_jax.images.partition import hold_out

PUBLIC = "public"


@dataclasses.dataclass(frozen=True, eq=False)
class Believed:
    """What the attacker believes of one release.

    Attributes:
        layer: the guessed number of layers.
        guess: of its channels.
        layer_rms: float [C], of all channels of that layer on the attacker's pictures, never zero.
        release_rms: float [D], of the release, never zero.
        width: channels with those that only fill up.
    """

    layer: int
    guess: Guess
    layer_rms: np.ndarray
    release_rms: np.ndarray
    width: int

    @property
    def channels(self) -> np.ndarray:
        """The guessed channels, int [D]."""
        return np.asarray(self.guess.channels)

    def normalised(self, release: np.ndarray) -> np.ndarray:
        """Returns representations float32 [N, h, w, width] of root mean square 1, as own ones."""
        depth = len(self.release_rms)
        scaled = np.zeros(release.shape, np.float32)
        scaled[..., :depth] = release[..., :depth] / np.float32(self.release_rms)
        return scaled

    def local(self, layer: Representing) -> Representing:
        """Returns the guessed local NN: images -> what `normalised` gives, differentiable."""
        scales = np.float32(1 / self.layer_rms[self.channels])
        unused = self.width - len(scales)

        def represent(images: jax.Array) -> jax.Array:
            found = layer(images)[..., self.channels] * scales
            return jax.numpy.pad(found, ((0, 0), (0, 0), (0, 0), (0, unused)))

        return represent


@dataclasses.dataclass(frozen=True)
class PublicAttack:
    """Guesses, makes pairs, trains, and optimises; see the module.

    Its report is that of the optimisation, with the "guessed_layer", the "guess" and the
    "confidence" in it, the mean over channels, in [0, 1].

    Attributes:
        network: trained on the pairs that it makes.
        steps: of the optimisation, per image.
        tuning_images: as of `WhiteBox`.
        name: what results call it.
    """

    network: InverseNetwork
    steps: int = 150
    tuning_images: int = 24
    name: str = PUBLIC
    knowledge: str = NETWORK
    optimises_images: ClassVar[bool] = True
    least_pictures: ClassVar[int] = 8  # four chunks of statistics, and some held out twice

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Fits topologies of one guessed layer side by side; see `base.Attack.fit`."""
        for known in knowledge:
            if known.network is None or known.observed is None:
                raise UserError(
                    f"the attack {self.name} was given the knowledge {known.name!r}; it needs the "
                    "network and representations without images; give 'network but not channels'"
                )
        pictures = [own.images[:: own.copies] for own in scenes]  # copies differ in noise alone
        check_count(self.name, min(map(len, pictures)), self.least_pictures)
        places: dict[Any, list[int]] = {}
        believed = []
        publics: dict[Any, dict[int, PublicLayer]] = {}
        for place, (own, known) in enumerate(zip(scenes, knowledge, strict=True)):
            common = id(known.network), id(own.images)
            if common not in publics:
                publics[common] = _public_layers(known.network, pictures[place])
            believed.append(_believed(known.observed[:], publics[common]))
            # As many chunks of statistics, so that no number depends on what is beside it.
            alike = (*common, len(known.observed), believed[-1].layer)
            places.setdefault(alike, []).append(place)
        fitted: dict[int, FittedAttack] = {}
        for (*_, layer), together in places.items():
            first = together[0]
            run = _of_layer(knowledge[first].network, layer)
            fitted |= zip(
                together,
                self._fitted(
                    run,
                    pictures[first],
                    [believed[place] for place in together],
                    [keys[place] for place in together],
                ),
                strict=True,
            )
        return [fitted[place] for place in range(len(scenes))]

    def _fitted(
        self,
        layer: Representing,
        pictures: np.ndarray,
        believed: Sequence[Believed],
        keys: Sequence[jax.Array],
    ) -> list[FittedAttack]:
        """Attacks releases of one guessed layer."""
        learning, tuning = hold_out(len(pictures))
        union = np.unique(np.concatenate([own.channels for own in believed]))
        rms, budget = believed[0].layer_rms[union], self.network.training.budget
        examples = budget.steps * budget.batch_size
        maker = PairMaker(layer, pictures[learning], union, rms, examples)
        made = [
            maker.pairs(own.channels, own.width, key)
            for own, key in zip(believed, keys, strict=True)
        ]
        networks = self.network.trained(made, linear_attacks(made, on_both=False), keys)
        optimiser = WhiteBox(self.network, self.steps, self.tuning_images)
        found = []
        for own, warm in zip(believed, networks, strict=True):
            local, images = own.local(layer), pictures[tuning]
            pairs = Pairs(np.asarray(LayerRows(local, images)[:]), images)
            found.append(_told(optimiser.starting_from(warm, pairs, local), own))
        return found


def _told(fitted: FittedAttack, believed: Believed) -> FittedAttack:
    report = {
        **fitted.report,
        "guessed_layer": believed.layer,
        "guess": believed.guess,
        "confidence": float(np.mean(believed.guess.confidence)),
        # What longer training would gain is of pairs that it made itself.
        "gain_db": None,
    }
    return FittedAttack(lambda x: fitted.reconstruct(believed.normalised(x)), report)


def _of_layer(network: Network, number: int) -> Representing:
    return lambda images: network(images)[number]


def _public_layers(network: Network, pictures: np.ndarray) -> dict[int, PublicLayer]:
    """All layers that a release may be of, on the attacker's pictures."""
    one = jax.ShapeDtypeStruct((1, *pictures.shape[1:]), np.float32)
    numbers = jax.eval_shape(network, one)
    return {n: PublicLayer(LayerRows(_of_layer(network, n), pictures)) for n in numbers}


def _believed(observed: np.ndarray, layers: Mapping[int, PublicLayer]) -> Believed:
    """What the statistics of a release say."""
    width, depth = observed.shape[-1], released_channels(observed)
    observed = np.float32(observed[..., :depth])
    widest = max(layers.values(), key=lambda own: own.shape[-1])
    # At least four chunks, or nothing is known of how statistics vary from one to the next.
    size = chunk_size(min(len(observed), widest.count // 4), widest.shape)
    release = channel_statistics(chunks_of(observed, size))
    of_layers = {number: own.statistics(size) for number, own in layers.items()}
    layer, guess = guess_layer(release, of_layers)
    released = np.maximum(rms_of(observed), LEAST_RELATIVE_RMS)
    return Believed(layer, guess, 1 / scales_of(of_layers[layer].rms), released, width)
