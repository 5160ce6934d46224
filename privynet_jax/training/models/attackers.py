"""The inverse networks by name, and how each is trained: its own rate, loss and optimiser.

CAPACITIES["strong"].task(image_size=32)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
from jax.typing import DTypeLike

from privynet_jax.training import optimisers, tasks
from privynet_jax.training.models.networks import ResidualAttacker, StrongAttacker

PAPER, RESIDUAL, STRONG = "paper", "residual", "strong"


@dataclasses.dataclass(frozen=True)
class Capacity:
    """A network and how it is trained; what `tasks.attacker_task` takes, it explains."""

    name: str  # what reports call it
    network: Callable[..., nn.Module]  # of the side of images in pixels, and maybe a dtype
    learning_rate: float  # the peak that suits it, wherever it is trained; tuning tries multiples
    optimiser: optimisers.Optimiser = optimisers.adamw
    loss: tasks.ImageLoss = tasks.squared_loss
    linear_start: bool = True
    shows_estimate: bool = False
    stream: int = 1

    def task(
        self,
        image_size: int,
        dtype: DTypeLike = "float32",
        wrapped: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> tasks.Task:
        """Returns what the network learns: images float32 [N, H, W, 3].

        `wrapped` may make another network of it, with the same call and the same `image_size`.
        """
        plain = {} if dtype == "float32" else {"dtype": dtype}
        return tasks.attacker_task(
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
            PAPER, functools.partial(ResidualAttacker, width=64, num_blocks=8), 2e-3, stream=4
        ),
        Capacity(RESIDUAL, ResidualAttacker, 3e-3),
        Capacity(
            STRONG,
            StrongAttacker,
            4e-3,
            optimisers.muon,
            tasks.log_loss,
            shows_estimate=True,
            stream=3,
        ),
    )
}


def capacities_of_size(width: int, num_blocks: int) -> dict[str, Capacity]:
    """Returns `CAPACITIES` with another size of the residual network."""
    network = functools.partial(ResidualAttacker, width=width, num_blocks=num_blocks)
    residual = dataclasses.replace(CAPACITIES[RESIDUAL], network=network)
    return {**CAPACITIES, RESIDUAL: residual}
