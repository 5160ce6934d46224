"""PriPHiT: an early exit for the class, an adversarial one for an attribute, then noise.

Sepehri, Pad, Frossard and Dunbar 2024, arXiv:2408.05092. The order is theirs: the local NN is
trained by its exits alone, and frozen; what it releases then has bounded norm and Laplace noise,
from which the cloud learns. How the adversarial exit is misled is multidetasking's here.
"""

import dataclasses
from typing import ClassVar

from privynet_jax.mechanisms.adapting.multidetasking import Multidetasking
from privynet_jax.mechanisms.noises import LaplaceNoise


@dataclasses.dataclass(frozen=True)
class PriPhit(Multidetasking, LaplaceNoise):
    """A local NN that hides an attribute, and Laplace noise on what it makes.

    The noise alone is what guarantees `epsilon` for two arbitrary images.
    """

    name: ClassVar[str] = "priphit"
    example: ClassVar[str] = "priphit:scale=0.5,attribute=brightness"

    def __post_init__(self) -> None:
        Multidetasking.__post_init__(self)
        LaplaceNoise.__post_init__(self)

    @property
    def added_noise(self) -> None:
        """None: bounds are of the pretrained local NN, and this one is another."""
        return None
