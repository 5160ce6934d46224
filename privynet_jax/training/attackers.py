"""The trained attackers' networks by name, and what a grid's cells learn of them.

`grid` trains those that a characterisation names, side by side over cells; `attacks.inverse` puts
the same ones behind the interface of all attacks, with tuning.

    tasks = attacker_tasks(("strong",), attacker(32), Schedule(steps=500))
    CAPACITIES["strong"].network(32)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn

from privynet_jax.errors import UserError
from privynet_jax.training import networks
from privynet_jax.training import tasks as training
from privynet_jax.training.losses import LOGARITHMIC, SQUARED, ImageLoss
from privynet_jax.training.networks import ResidualAttacker
from privynet_jax.training.optimisers import Optimiser, adamw, muon
from privynet_jax.training.tasks import RESIDUAL, Schedule, Task

PAPER, STRONG = "paper", "strong"


@dataclasses.dataclass(frozen=True)
class Capacity:
    """A network and how it is trained.

    Attributes:
        name: what reports call it.
        network: side of the images in pixels, and dtype -> network, representations -> images.
        learning_rate: the peak that suits it where it is tuned; `InverseNetwork` tries multiples.
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

    def task(self, network: nn.Module, schedule: Schedule) -> Task:
        """Returns what the network, of this kind, learns: images float32 [N, H, W, 3]."""
        return training.attacker_task(
            network,
            schedule,
            name=self.name,
            stream=self.stream,
            loss=self.loss,
            optimiser=self.optimiser,
            shows_estimate=self.shows_estimate,
        )


# PrivyNet's decoder is the generator of SRGAN: residual blocks of 64 channels. Of it, "paper" has
# blocks and width; "residual" has any; "strong" reaches most per second of training.
CAPACITIES = {
    capacity.name: capacity
    for capacity in (
        Capacity(
            PAPER, functools.partial(networks.attacker, width=64, num_blocks=8), 2e-3, stream=4
        ),
        Capacity(RESIDUAL, networks.attacker, 3e-3),
        Capacity(
            STRONG,
            networks.strong_attacker,
            4e-3,
            muon,
            LOGARITHMIC,
            shows_estimate=True,
            stream=3,
        ),
    )
}


def check_attackers(names: Sequence[str]) -> None:
    """Raises UserError where names of trained attackers are unknown, missing or repeated."""
    if set(names) - set(CAPACITIES) or len(set(names)) != len(names) or not names:
        raise UserError(
            f"attackers are {', '.join(names) or 'none'}; allowed are {', '.join(CAPACITIES)}, "
            "each once; give one or more"
        )


def attacker_tasks(
    names: Sequence[str],
    residual: ResidualAttacker,
    schedule: Schedule,
    wrapped: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> tuple[Task, ...]:
    """Returns what each named attacker learns, all on one schedule.

    Args:
        names: of `CAPACITIES`; see `check_attackers`.
        residual: the network of that name; its image size and dtype are those of the others.
        schedule: of each one's training.
        wrapped: what is done to each network; it keeps its call and its `image_size`.
    """
    tasks = []
    for capacity in (CAPACITIES[name] for name in names):
        network: nn.Module = residual
        if capacity.name != RESIDUAL:
            network = capacity.network(residual.image_size, dtype=residual.dtype)
        tasks.append(capacity.task(wrapped(network), schedule))
    return tuple(tasks)
