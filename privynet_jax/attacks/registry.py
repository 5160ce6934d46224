"""The attackers that every command knows by name; whoever adds one adds it here.

attacks = named_attacks(["linear", "strong", "white box"], Training(Budget(steps=2000)))
[fitted] = attacks[1].fit([pairs], [knowledge], [key])
"""

import dataclasses
from collections.abc import Mapping, Sequence

from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.closed_form import LINEAR, LinearInversion, MeanImage
from privynet_jax.attacks.informed import INFORMED, InformedAttack
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.public.public_attack import PUBLIC, PublicAttack
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import CAPACITIES, STRONG

TUNED, WHITE_BOX = "tuned", "white box"
# Multiples of a network's usual learning rate among which `tuned` chooses, best guess first.
TUNED_FACTORS = (1.0, 2.0, 0.5)


def attackers(training: Training) -> dict[str, Attack]:
    """Returns all attackers by name whose networks there are; who knows the local NN comes last."""
    networks = {
        name: InverseNetwork(name, (capacity,), training)
        for name, capacity in training.capacities.items()
    }
    starts = {LINEAR: LinearInversion(), **networks}
    white_boxes = {f"{WHITE_BOX} from {name}": start for name, start in starts.items()}
    known = {MeanImage.name: MeanImage(), **starts}
    if CAPACITIES.keys() <= networks.keys():
        several = tuple(training.capacities[name] for name in CAPACITIES)  # not what was added
        tuned = dataclasses.replace(training, rate_factors=TUNED_FACTORS)
        known[TUNED] = InverseNetwork(TUNED, several, tuned)
    if STRONG in networks:
        known |= {
            PUBLIC: PublicAttack(networks[STRONG]),
            WHITE_BOX: WhiteBox(networks[STRONG]),
        }
    known |= {name: WhiteBox(start, name=name) for name, start in white_boxes.items()}
    return known | ({INFORMED: InformedAttack(networks[STRONG])} if STRONG in networks else {})


def named_attacks(names: Sequence[str], training: Training | None = None) -> tuple[Attack, ...]:
    """Returns the attacks of these names, in the registry's order; None trains as usual.

    Raises:
        UserError: names are unknown, missing or repeated.
    """
    known = attackers(training or Training())
    check_attackers(names, known)
    return tuple(attack for name, attack in known.items() if name in names)


def check_attackers(names: Sequence[str], known: Mapping[str, object] | None = None) -> None:
    """Raises UserError where names of attackers are unknown, missing or repeated."""
    known = attackers(Training()) if known is None else known
    unknown = sorted(set(names) - set(known))
    if unknown or not names or len(set(names)) < len(names):
        told = ", ".join(unknown) or ", ".join(names) or "nothing"
        raise UserError(
            f"--attackers names {told}; allowed are {', '.join(known)}, each once; give one or more"
        )
