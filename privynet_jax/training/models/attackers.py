"""The inverse networks by name, and how each is trained: its own rate, loss and optimiser.

CAPACITIES["strong"].task(image_size=32)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
from jax.typing import DTypeLike

from privynet_jax.training.models import networks
from privynet_jax.training.tasks import (
    LOGARITHMIC,
    SQUARED,
    ImageLoss,
    Optimiser,
    Task,
    adamw,
    attacker_task,
    muon,
)

PAPER, RESIDUAL, STRONG = "paper", "residual", "strong"


@dataclasses.dataclass(frozen=True)
class Capacity:
    """A network and how it is trained.

    Attributes:
        name: what reports call it.
        network: side of the images in pixels, and dtype -> network, representations -> images.
        learning_rate: the peak that suits it, wherever it is trained; tuning tries multiples.
        optimiser: what makes updates of gradients.
        loss: that it minimises.
        linear_start: whether the network corrects the linear estimate, or answers by itself.
        shows_estimate: whether it is given that estimate besides the representation.
        stream: of random numbers, where a cell trains several.
    """

    name: str
    network: Callable[..., nn.Module]
    learning_rate: float
    optimiser: Optimiser = adamw
    loss: ImageLoss = SQUARED
    linear_start: bool = True
    shows_estimate: bool = False
    stream: int = 1

    def task(
        self,
        image_size: int,
        dtype: DTypeLike = "float32",
        wrapped: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> Task:
        """Returns what the network learns: images float32 [N, H, W, 3].

        Args:
            image_size: side of the images in pixels.
            dtype: of the network's arithmetic.
            wrapped: what is done to the network; it keeps its call and its `image_size`.
        """
        plain = {} if dtype == "float32" else {"dtype": dtype}
        return attacker_task(
            wrapped(self.network(image_size, **plain)),
            name=self.name,
            stream=self.stream,
            loss=self.loss,
            optimiser=self.optimiser,
            linear_start=self.linear_start,
            shows_estimate=self.shows_estimate,
        )


# PrivyNet's decoder is the generator of SRGAN: residual blocks of 64 channels. Of it, "paper" has
# blocks and width; "residual" has any; "strong" reaches most per second of training.
CAPACITIES: Mapping[str, Capacity] = {
    capacity.name: capacity
    for capacity in (
        Capacity(
            PAPER, functools.partial(networks.attacker, width=64, num_blocks=8), 2e-3, stream=4
        ),
        Capacity(RESIDUAL, networks.attacker, 3e-3),
        Capacity(
            STRONG,
            networks.StrongAttacker,
            4e-3,
            muon,
            LOGARITHMIC,
            shows_estimate=True,
            stream=3,
        ),
    )
}


def capacities_of_size(width: int, num_blocks: int) -> dict[str, Capacity]:
    """Returns `CAPACITIES` with another size of the residual network."""
    network = functools.partial(networks.attacker, width=width, num_blocks=num_blocks)
    residual = dataclasses.replace(CAPACITIES[RESIDUAL], network=network)
    return {**CAPACITIES, RESIDUAL: residual}
