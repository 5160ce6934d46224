"""The attackers that every command knows by name; whoever adds one adds it here.

attacks = named_attacks(["linear", "strong", "white box"], Training(Budget(steps=2000)))
[fitted] = attacks[1].fit([pairs], [knowledge], [key])
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn

from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.closed_form import LINEAR, LinearInversion, MeanImage
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.substitute import SUBSTITUTE, Substitute
from privynet_jax.attacks.tuning import Budget
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import CAPACITIES, STRONG, Capacity

TUNED, WHITE_BOX = "tuned", "white box"
# Multiples of a network's usual learning rate among which `tuned` chooses, best guess first.
TUNED_FACTORS = (1.0, 2.0, 0.5)


@dataclasses.dataclass(frozen=True)
class Training:
    """How attackers train, whichever they are.

    Attributes:
        budget: of each.
        rate_factors: multiples of a network's usual learning rate that compete within it.
        capacities: the inverse networks by name.
        dtype: of their arithmetic.
        wrapped: what is done to each network; it keeps its call and its `image_size`.
    """

    budget: Budget = Budget()  # noqa: RUF009 - frozen
    rate_factors: tuple[float, ...] = (1.0,)
    capacities: Mapping[str, Capacity] = dataclasses.field(default_factory=lambda: CAPACITIES)
    dtype: str = "float32"
    wrapped: Callable[[nn.Module], nn.Module] = lambda network: network

    def network(self, name: str, *names: str) -> InverseNetwork:
        """Returns the attack by a network of this name, or by the best of several."""
        chosen = tuple(self.capacities[own] for own in (name, *names))
        factors = TUNED_FACTORS if names else self.rate_factors
        return InverseNetwork(
            TUNED if names else name, chosen, self.budget, factors, self.dtype, self.wrapped
        )


def attackers(training: Training) -> dict[str, Callable[[], Attack]]:
    """Returns all attackers by name; those that know the local NN come last."""
    networks = {name: functools.partial(training.network, name) for name in training.capacities}
    starts = {LINEAR: LinearInversion, **networks}

    def white_box(start: str) -> WhiteBox:
        return WhiteBox(starts[start](), name=f"{WHITE_BOX} from {start}")

    white_boxes = {
        f"{WHITE_BOX} from {start}": functools.partial(white_box, start) for start in starts
    }
    return {
        MeanImage.name: MeanImage,
        LINEAR: LinearInversion,
        **networks,
        TUNED: lambda: training.network(*CAPACITIES),  # this project's, whatever was added
        SUBSTITUTE: lambda: Substitute(training.network(STRONG)),
        WHITE_BOX: lambda: WhiteBox(training.network(STRONG)),
        **white_boxes,
    }


def named_attacks(
    names: Sequence[str], training: Training | None = None, flag: str = "attackers"
) -> tuple[Attack, ...]:
    """Returns the attacks of these names, in the registry's order.

    Args:
        names: of which to take.
        training: how they train; None means the usual budget.
        flag: that named them, for `check_attackers`.
    """
    known = attackers(training or Training())
    check_attackers(names, known, flag)
    return tuple(known[name]() for name in known if name in names)


def check_attackers(
    names: Sequence[str], known: Mapping[str, object] | None = None, flag: str = "attackers"
) -> None:
    """Raises UserError where names of attackers are unknown, missing or repeated."""
    known = attackers(Training()) if known is None else known
    unknown = sorted(set(names) - set(known))
    if unknown or not names or len(set(names)) < len(names):
        told = ", ".join(unknown) or ", ".join(names) or "nothing"
        raise UserError(
            f"--{flag} names {told}; allowed are {', '.join(known)}, each once; give one or more"
        )
