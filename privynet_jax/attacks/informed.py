"""Who has the local NN, and makes pairs without end: class `leak`, who knows more than `public`.

Views of its own pictures (`made_pairs`) are run through the local NN, and through what a mechanism
does besides, with randomness of their own; an inverse network is trained on them, and each picture
is optimised from where that ends (`white_box`), under what is released on average. Where a
mechanism keeps `public` from guessing channels, this one stands for it.

    attack = InformedAttack(InverseNetwork("strong", (CAPACITIES["strong"],), Training()))
    [fitted] = attack.fit([scene.pairs(EVERYTHING)], [scene.knowledge(EVERYTHING)], [key])
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, FittedAttack, Knowledge, Pairs
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.public.made_pairs import MadePairs, PairMaker, own_pictures
from privynet_jax.attacks.public.public_layer import LayerRows
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import UserError
from privynet_jax.images.partition import hold_out

INFORMED = "informed"


@dataclasses.dataclass(frozen=True)
class InformedAttack:
    """Makes pairs, trains, and optimises; see the module. Its report is the optimisation's.

    Attributes:
        network: trained on the pairs that it makes.
        steps: of the optimisation, per image.
        tuning_images: as of `WhiteBox`.
        name: what results call it.
    """

    network: InverseNetwork
    steps: int = 150
    tuning_images: int = 16
    name: str = INFORMED
    knowledge: str = EVERYTHING
    optimises_images: ClassVar[bool] = True
    least_pairs: ClassVar[int] = 8  # as many as `public` needs, of which some are held out twice

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Fits topologies side by side; see `base.Attack.fit`."""
        if any(known.local is None for known in knowledge):
            raise UserError(
                f"the attack {self.name} was not given the local NN itself; give 'everything'"
            )
        budget = self.network.training.budget
        pictures = own_pictures(self.name, scenes, budget, self.least_pairs)
        examples, made, tuning = budget.steps * budget.batch_size, [], []
        for own, known, key in zip(pictures, knowledge, keys, strict=True):
            _, judged = hold_out(len(own))
            made.append(self._pairs(known, own, examples, key))
            rows = LayerRows(known.made or known.local, own[judged])
            tuning.append(Pairs(rows[:], own[judged]))
        warm = self.network.trained(made, linear_attacks(made, on_both=False), keys)
        box = WhiteBox(self.network, self.steps, self.tuning_images)
        found = zip(warm, tuning, [known.local for known in knowledge], strict=True)
        return [box.starting_from(*each) for each in found]

    def _pairs(
        self, known: Knowledge, images: np.ndarray, examples: int, key: jax.Array
    ) -> MadePairs:
        layer = known.made or known.local
        width = LayerRows(layer, images[:1]).shape[-1]
        channels = np.arange(width)
        maker = PairMaker(layer, images, channels, np.ones(width), examples)
        return maker.pairs(channels, width, key)
