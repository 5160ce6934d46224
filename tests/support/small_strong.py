"""The strong attacker small enough to train in no time, for tests of what is done with it."""

import dataclasses
import functools

from privynet_jax.training.models.attackers import CAPACITIES, STRONG, Capacity


def without_blocks() -> Capacity:
    """What it is but for its blocks."""
    strong = CAPACITIES[STRONG]
    return dataclasses.replace(strong, network=functools.partial(strong.network, num_blocks=0))
