"""The attacker of class `public`, composed: it needs nothing secret, and asks nobody.

It knows the published weights, owns pictures without representations, and sees the release. From
the release's statistics it guesses layer and channels (`guessing`); with these it makes pairs
without end of its own pictures (`made_pairs`), trains an inverse network on them, and optimises
each picture under the guessed local NN from where the network ends (`white_box`), as far as that
helped on pictures of its own. On the way it asks the release whether the guess is right, and how
strong each channel really is (`consistency`).

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
    diverged,
)
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.public.channel_statistics import (
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.attacks.public.consistency import check_guess, gains_and_weights
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
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.partition import hold_out
from privynet_jax.platform.devices import at_once

PUBLIC = "public"
# Pictures, of the release and of its own, by which the guess is checked, and bytes of a layer.
_ASKED, _ASKED_BYTES = 256, 2**27


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
    """

    layer: int
    guess: Guess
    used: np.ndarray
    layer_rms: np.ndarray
    release_rms: np.ndarray
    width: int

    @property
    def channels(self) -> np.ndarray:
        """The guessed channels that are used, int [K]."""
        return np.asarray(self.guess.channels)[self.used]

    def normalised(self, release: np.ndarray) -> np.ndarray:
        """Returns representations float32 [N, h, w, width] of root mean square 1, as own ones."""
        scaled = np.zeros((*release.shape[:3], self.width), np.float32)
        scaled[..., : len(self.used)] = release[..., self.used] / np.float32(self.release_rms)
        return scaled

    def of_layer(self, features: np.ndarray) -> np.ndarray:
        """Returns the same of all channels of the layer, [N, h, w, C], on any pictures."""
        scaled = np.zeros((*features.shape[:3], self.width), np.float32)
        scaled[..., : len(self.used)] = features[..., self.channels] / self.layer_rms[self.channels]
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
    least_pairs: ClassVar[int] = 8  # four chunks of statistics, and some held out twice

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
        check_count(self.name, min(map(len, pictures)), self.least_pairs)
        publics: dict[Any, Mapping[int, PublicLayer]] = {}
        groups: dict[Any, list[tuple[int, Believed]]] = {}
        for place, (own, known) in enumerate(zip(scenes, knowledge, strict=True)):
            common = id(known.network), id(own.images)
            if common not in publics:
                publics[common] = _public_layers(known.network, pictures[place])
            believed = _believed(known.observed[:], pictures[place], publics[common])
            # As many chunks of statistics, so that no number depends on what is beside it.
            alike = (*common, len(known.observed), believed.layer)
            groups.setdefault(alike, []).append((place, believed))
        fitted: dict[int, FittedAttack] = {}
        for (*common, _, number), group in groups.items():
            places, believed = zip(*group, strict=True)
            layer = _of_layer(knowledge[places[0]].network, number), publics[tuple(common)][number]
            asked = [(knowledge[place].observed, keys[place]) for place in places]
            found = self._fitted(*layer, pictures[places[0]], believed, asked)
            fitted |= zip(places, found, strict=True)
        return [fitted[place] for place in range(len(scenes))]

    def _fitted(
        self,
        layer: Representing,
        public: PublicLayer,
        pictures: np.ndarray,
        believed: Sequence[Believed],
        asked: Sequence[tuple[np.ndarray, jax.Array]],
    ) -> list[FittedAttack]:
        """Attacks releases of one guessed layer, each observed, and with a key."""
        learning, tuning = hold_out(len(pictures))
        union = np.unique(np.concatenate([own.channels for own in believed]))
        rms, budget = believed[0].layer_rms, self.network.training.budget
        examples = budget.steps * budget.batch_size
        maker = PairMaker(layer, pictures[learning], union, rms[union], examples)
        keys = [key for _, key in asked]
        made = [
            maker.pairs(own.channels, own.width, key)
            for own, key in zip(believed, keys, strict=True)
        ]
        networks = self.network.trained(made, linear_attacks(made, on_both=False), keys)
        held, found = pictures[tuning], []
        of_held = public.on(held)
        for own, (observed, _), warm in zip(believed, asked, networks, strict=True):
            pairs = Pairs(own.of_layer(of_held), held)
            try:
                own, trust = _settled(own, observed[:_ASKED], pairs, public, warm)
            except DivergedError as error:
                found.append(diverged(str(error)))
                continue
            found.append(self._optimising(own, trust, pairs, own.local(layer), warm))
        return found

    def _optimising(
        self,
        believed: Believed,
        trust: np.ndarray,
        pairs: Pairs,
        local: Representing,
        warm: FittedAttack,
    ) -> FittedAttack:
        """Optimises from a network's estimates, with each channel weighed by float32 [width]."""
        weighed = Pairs(pairs.representations * trust, pairs.images)
        start = FittedAttack(lambda x: warm.reconstruct(x / trust), warm.report)
        optimiser = WhiteBox(self.network, self.steps, self.tuning_images)
        fitted = optimiser.starting_from(start, weighed, lambda images: local(images) * trust)
        report = {
            **fitted.report,
            "guessed_layer": believed.layer,
            "guess": believed.guess,
            "confidence": float(np.mean(believed.guess.confidence)),
            "unused_channels": len(believed.guess.channels) - len(believed.used),
            # What longer training would gain is of pairs that it made itself.
            "gain_db": None,
        }
        reconstruct = fitted.reconstruct
        return FittedAttack(lambda x: reconstruct(believed.normalised(x) * trust), report)


def _of_layer(network: Network, number: int) -> Representing:
    return lambda images: network(images)[number]


def _public_layers(network: Network, pictures: np.ndarray) -> dict[int, PublicLayer]:
    """All layers that a release may be of, on the attacker's pictures."""
    one = jax.ShapeDtypeStruct((1, *pictures.shape[1:]), np.float32)
    numbers = jax.eval_shape(network, one)
    return {n: PublicLayer(LayerRows(_of_layer(network, n), pictures)) for n in numbers}


def _believed(
    observed: np.ndarray, pictures: np.ndarray, layers: Mapping[int, PublicLayer]
) -> Believed:
    """What the statistics of a release say, and the release itself to that."""
    width, depth = observed.shape[-1], released_channels(observed)
    observed = np.float32(observed[..., :depth])
    widest = max(layers.values(), key=lambda own: own.shape[-1])
    # At least four chunks, or nothing is known of how statistics vary from one to the next.
    size = chunk_size(min(len(observed), widest.count // 4), widest.shape)
    release = channel_statistics(chunks_of(observed, size))
    of_layers = {number: own.statistics(size) for number, own in layers.items()}
    number, guess = guess_layer(release, of_layers)
    public, rms = layers[number], 1 / scales_of(of_layers[number].rms)
    of_release = np.maximum(rms_of(observed), LEAST_RELATIVE_RMS)
    count = at_once(_ASKED, 4 * int(np.prod(public.shape)), _ASKED_BYTES)
    checked = check_guess(
        guess.channels,
        observed[:count] / np.float32(of_release),
        public.first(count) / rms,
        pictures[:count],
        lambda images: public.on(images) / rms,
    )
    guess = dataclasses.replace(guess, channels=tuple(map(int, checked.channels)))
    used = np.flatnonzero(checked.trusted)
    return Believed(number, guess, used, rms, of_release[used], width)


def _settled(
    believed: Believed,
    observed: np.ndarray,
    pairs: Pairs,
    public: PublicLayer,
    network: FittedAttack,
) -> tuple[Believed, np.ndarray]:
    """What a trained network's estimates say of gains, and the root of each channel's weight."""
    count, used = len(observed), len(believed.used)

    def gives_again(representations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        estimates = network.reconstruct(representations)
        again = believed.of_layer(public.on(np.uint8(np.round(255 * np.clip(estimates, 0, 1)))))
        return representations[..., :used], again[..., :used]

    own = gives_again(pairs.representations[:count])
    gains, weights = gains_and_weights(*gives_again(believed.normalised(observed)), *own)
    changed = dataclasses.replace(believed, release_rms=believed.release_rms * gains)
    trust = np.pad(np.sqrt(weights), (0, believed.width - used), constant_values=1)
    return changed, np.float32(trust)
