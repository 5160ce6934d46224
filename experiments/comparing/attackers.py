"""Attackers by name, for commands that set several of them on the same representations.

attacks = named(("linear", "strong"), project_attackers(Budget(steps=2000)), "attackers")
fitted, knowledge = fitted_on(scene, attacks[1], key)
training_columns(fitted.report)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from privynet_jax.attacks.base import EVERYTHING, PAIRS, Attack, FittedAttack, Report
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage
from privynet_jax.attacks.inverse import inverse_network
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.tuning import Budget
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import UserError
from privynet_jax.training.attackers import CAPACITIES, STRONG

# The network and the learning rate are both chosen, within the one budget.
TUNED = "tuned"


def project_attackers(budget: Budget, rate_factors: tuple[float, ...] = (1.0,)) -> list[Attack]:
    """Returns the project's attackers, those that know the local NN last.

    Args:
        budget: of each trained one.
        rate_factors: multiples of a network's usual learning rate that compete; `tuned` chooses
            among all networks, at rates of its own.
    """
    trained = {name: inverse_network(name, budget, rate_factors) for name in CAPACITIES}
    tuned = dataclasses.replace(inverse_network(tuple(CAPACITIES), budget), name=TUNED)
    starts = (LinearInversion(), trained[STRONG])
    knowing = [WhiteBox(start, name=f"white box from {start.name}") for start in starts]
    return [MeanImage(), LinearInversion(), *trained.values(), tuned, *knowing]


def needs_pairs_alone(attack: Attack) -> bool:
    """Whether it makes no use of the local NN itself."""
    return not isinstance(attack, WhiteBox)


def named(names: Sequence[str], attacks: Sequence[Attack], flag: str) -> list[Attack]:
    """Returns the attacks of these names, in their own order.

    Args:
        names: of which to take.
        attacks: all there are.
        flag: that named them.

    Raises:
        UserError: there is no name, or one twice, or no attack has it.
    """
    if len(set(names)) < len(names):
        raise UserError(f"--{flag}={','.join(names)}; allowed is each name once")
    known = [attack.name for attack in attacks]
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        told = ", ".join(unknown) or "nothing"
        raise UserError(f"--{flag} names {told}; allowed are {', '.join(known)}")
    return [attack for attack in attacks if attack.name in names]


def fitted_on(scene: Scenario, attack: Attack, key: jax.Array) -> tuple[FittedAttack, str]:
    """Returns an attack fitted on all pairs of a topology, and what it knows besides."""
    knowledge = scene.knowledge(PAIRS if needs_pairs_alone(attack) else EVERYTHING)
    return attack.fit(scene.pairs(), knowledge, key), knowledge.name


def training_columns(report: Report) -> dict[str, Any]:
    """Returns what a table says of an attack's training."""
    return {
        "network": report.get("capacity", ""),
        "steps": report.get("steps", 0),
        "learning_rate": f"{report['learning_rate']:g}" if "learning_rate" in report else "",
        "falling_percent_per_doubling": float(report.get("falling_percent_per_doubling", 0.0)),
        "converged": report["converged"],
    }
