"""How long those train who attack a plan, before it is written and in audits.

Grids for a first look train theirs for seconds.

    attackers_schedule(Schedule(300, 16))  # 2,000 steps of 32
"""

import dataclasses
import math

from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.training.tasks import Schedule

# Times the characterisation's steps that plans are attacked and audited with, as a rule, attackers
# on no fewer examples than they usually need.
TRAINING = 2.0


def attackers_schedule(characterised: Schedule, training: float = TRAINING) -> Schedule:
    """Returns how long a plan's attackers train: so many times as the characterisation's.

    Grids for a first look train theirs for seconds, so it is on no fewer examples than attackers
    usually need, or the share of these that `training` is of `TRAINING`. Errors are those of
    `check_training`.
    """
    check_training(training)
    longer, usual = characterised.longer(training), Budget()
    least = dataclasses.replace(longer, steps=usual.steps, batch_size=usual.batch_size)
    least = least.longer(training / TRAINING)
    return max(longer, least, key=lambda each: each.steps * each.batch_size)


def check_training(training: float) -> None:
    """Raises UserError unless it is a positive number."""
    if not 0 < training < math.inf:
        raise UserError(
            f"networks are to train {training:g} times as long as the characterisation's; allowed "
            "are positive numbers; leave it out for as long as they need"
        )
