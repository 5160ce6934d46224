"""The attacker of class `public`, composed: it needs nothing secret, and asks nobody.

It knows the published weights, owns pictures without representations, and sees the release. From
the release's statistics it guesses layer and channels (`guessing`); with these it makes pairs
without end of its own pictures (`made_pairs`), trains an inverse network on them, and optimises
each picture under the guessed local NN from where the network ends (`white_box`), as far as that
helped on pictures of its own. On the way it asks the release whether the guess is right
(`consistency`), and how strong each channel really is (`calibration`). Where it planted some of
the release's pictures, these tell both (`planted`).

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
    diverged,
    scaled,
)
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.pixel_prior import PixelPrior, fit_prior
from privynet_jax.attacks.public.belief import (
    Believed,
    believe,
    public_layers,
)
from privynet_jax.attacks.public.calibration import calibrate, pictures_of
from privynet_jax.attacks.public.made_pairs import PairMaker, own_pictures
from privynet_jax.attacks.public.public_layer import PublicLayer
from privynet_jax.attacks.public.shared_gain import settled_gains
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.partition import hold_out
from privynet_jax.images.parts import as_float

PUBLIC = "public"


@dataclasses.dataclass(frozen=True)
class PublicAttack:
    """Guesses, makes pairs, trains, and optimises; see the module.

    Its report is that of the optimisation, with the "guessed_layer", the "guess" and the
    "confidence" in it, the mean over channels, in [0, 1].

    Attributes:
        network: trained on the pairs that it makes.
        steps: of the optimisation, per image, and of finding gains before.
        tuning_images: as of `WhiteBox`; half as many, because tuning is most of its time.
        name: what results call it.
    """

    network: InverseNetwork
    steps: int = 150
    tuning_images: int = 16
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
        budget = self.network.training.budget
        pictures = own_pictures(self.name, scenes, budget, self.least_pairs)
        publics: dict[Any, Mapping[int, PublicLayer]] = {}
        groups: dict[Any, list[tuple[int, Believed]]] = {}
        for place, (own, known) in enumerate(zip(scenes, knowledge, strict=True)):
            common = id(known.network), id(own.images)
            if common not in publics:
                publics[common] = public_layers(known.network, pictures[place])
            layers = publics[common]
            believed = believe(known.observed[:], pictures[place], layers, known.planted)
            # As many chunks of statistics, so that no number depends on what is beside it.
            alike = (*common, len(known.observed), believed.layer)
            groups.setdefault(alike, []).append((place, believed))
        fitted: dict[int, FittedAttack] = {}
        for (*common, _, number), group in groups.items():
            places, believed = zip(*group, strict=True)
            layers = knowledge[places[0]].network, publics[tuple(common)][number]
            asked = [(knowledge[place].observed, keys[place]) for place in places]
            found = self._fitted(layers, pictures[places[0]], believed, asked)
            fitted |= zip(places, found, strict=True)
        return [fitted[place] for place in range(len(scenes))]

    def _fitted(
        self,
        layers: tuple[Network, PublicLayer],
        pictures: np.ndarray,
        believed: Sequence[Believed],
        asked: Sequence[tuple[np.ndarray, jax.Array]],
    ) -> list[FittedAttack]:
        """Attacks releases of one guessed layer, each observed, and with a key."""
        network, _ = layers
        _, tuning = hold_out(len(pictures))
        union = np.unique(np.concatenate([own.channels for own in believed]))
        rms, budget = believed[0].layer_rms, self.network.training.budget
        examples = budget.steps * budget.batch_size
        layer = network[believed[0].layer](union)
        maker = PairMaker(layer, pictures, union, rms, examples)
        keys = [key for _, key in asked]
        made = [
            maker.pairs(own.channels, own.width, key)
            for own, key in zip(believed, keys, strict=True)
        ]
        networks = self.network.trained(made, linear_attacks(made, on_both=False), keys)
        held = pictures[tuning]
        return [
            self._optimising(own, observed, held, layers, warm)
            for own, (observed, _), warm in zip(believed, asked, networks, strict=True)
        ]

    def _optimising(
        self,
        believed: Believed,
        observed: np.ndarray,
        pictures: np.ndarray,
        layers: tuple[Network, PublicLayer],
        warm: FittedAttack,
    ) -> FittedAttack:
        """Optimises from a network's estimates, tuned on pictures that it was not trained on."""
        network, public = layers
        own, local = believed.of_pictures(public, pictures), believed.local(network)
        trust, trusted = np.ones(believed.width, np.float32), local
        try:
            estimates = warm.reconstruct(own)
            if not believed.measured.all():
                prior = fit_prior(as_float(pictures) - estimates)
                few = slice(pictures_of(pictures.shape[1]))
                mine = own[few], estimates[few]
                believed, trust, doubt = self._calibrated(
                    believed, local, observed[few], mine, prior, warm
                )
                trusted = scaled(local, trust)
                # By gains that are right, weights would be chosen that wrong ones mislead.
                own = own * np.exp(
                    np.float32(doubt * np.random.default_rng(0).normal(size=believed.width))
                )
                estimates = warm.reconstruct(own)
        except DivergedError as error:
            return diverged(str(error))
        start = warm.after(lambda x: x / trust, warm.report)
        fitted = WhiteBox(self.network, self.steps, self.tuning_images).starting_from(
            start, Pairs(own * trust, pictures), trusted, estimates
        )
        report = {
            **fitted.report,
            "guessed_layer": believed.layer,
            "guess": believed.guess,
            "confidence": float(np.mean(believed.guess.confidence)),
            "unused_channels": len(believed.guess.channels) - len(believed.used),
        }
        return fitted.after(lambda x: believed.normalised(x) * trust, report)

    def _calibrated(
        self,
        believed: Believed,
        local: Representing,
        observed: np.ndarray,
        own: tuple[np.ndarray, np.ndarray],
        prior: PixelPrior,
        warm: FittedAttack,
    ) -> tuple[Believed, np.ndarray, float]:
        """Finds gains by some of a release and of own pictures, and trust, float32 [width].

        And how far gains are likely to be off still. What was measured stays as it is.
        """
        shown = believed.normalised(observed)
        found = calibrate(local, prior, shown, warm.reconstruct(shown), self.steps)
        gains, trust = found.gains, np.float32(np.sqrt(found.weights))
        known, doubt = np.flatnonzero(believed.measured), 0.0
        if len(known):  # what was found of them, which are 1, is what all have in common
            gains /= np.exp(np.average(np.log(gains[known]), weights=found.weights[known]))
            gains[known] = trust[known] = 1
        else:
            gains, doubt = settled_gains(local, prior, shown, found, own, self.steps)
        return believed.calibrated(gains), trust, doubt
