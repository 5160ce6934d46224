"""The modes of a characterisation, and what goes with them.

check_mode(config)  # UserError where the mode does not take the other settings
"""

from collections.abc import Sequence
from typing import Any

from privynet_jax.attacks.informed import INFORMED
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import check_attackers
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.training.models.attackers import STRONG

DEDICATED, AMORTISED, LINEAR = MODES = ("dedicated", "amortised", "linear")
USUAL_ATTACKERS = {DEDICATED: (STRONG,), AMORTISED: (STRONG,), LINEAR: ()}


def check_mode(config: Any) -> None:
    """Raises UserError where the mode of a `Config` is unknown, or other settings do not fit it."""
    if config.mode not in MODES:
        raise UserError(f"mode is {config.mode!r}; allowed are {', '.join(MODES)}; give one")
    _check_mechanism(config)
    if config.mode == DEDICATED:
        check_attackers(config.chosen_attackers)
        return
    if config.attackers and config.attackers != USUAL_ATTACKERS[config.mode]:
        raise UserError(
            f"attackers are {', '.join(config.attackers)} in mode {config.mode}, which has its own;"
            " leave them out or use the mode dedicated"
        )
    if config.scoring_images < config.examples:
        raise UserError(
            f"scoring_images is {config.scoring_images}; allowed are at least as many as "
            f"examples, {config.examples}; score on more images or keep fewer examples"
        )
    if config.compute_dtype != "float32":
        raise UserError(
            f"compute_dtype is {config.compute_dtype} in mode {config.mode}; allowed is float32 "
            "there; leave it out or use the mode dedicated"
        )


def _check_mechanism(config: Any) -> None:
    if config.of_devices == Plain():
        return
    if config.mode != DEDICATED:
        raise UserError(
            f"mechanism is {config.mechanism} in mode {config.mode}, which estimates the split "
            "alone; allowed is none there; use the mode dedicated"
        )
    check_guessing(config.of_devices, config.chosen_attackers)


def check_guessing(mechanism: Mechanism, attackers: Sequence[str]) -> None:
    """Raises UserError where attackers by name are to guess channels through a mechanism."""
    if PUBLIC in attackers and mechanism != Plain():
        raise UserError(
            f"--attackers names {PUBLIC} with the mechanism {mechanism}, through which it guesses "
            f"no channels; leave it out: {INFORMED} knows them"
        )
