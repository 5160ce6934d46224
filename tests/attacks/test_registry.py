"""Every attacker that commands know by name gives the known answers."""

import dataclasses
import functools

import pytest
from support.attack_checks import (
    check_inverts,
    check_learns_nothing_from_constants,
    check_learns_nothing_from_shuffled_pairs,
)

from privynet_jax.attacks.base import EVERYTHING, NETWORK
from privynet_jax.attacks.registry import Training, attackers, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import PAPER, capacities_of_size
from privynet_jax.training.models.networks import attacker

# Small, for few steps, because all of them start at the linear attack, whose answers are known.
SMALL = functools.partial(attacker, width=8, num_blocks=0)
CAPACITIES = {
    **capacities_of_size(8, 0),
    PAPER: dataclasses.replace(capacities_of_size(8, 0)[PAPER], network=SMALL),
}
TRAINING = Training(Budget(steps=3, batch_size=8), capacities=CAPACITIES)

# Networks by pairs alone, and that differ: paper is residual of another size, white boxes differ in
# where they start. test_closed_form.py has linear, and test_white_box.py and
# public/test_public_attack.py have what those two know besides.
BY_PAIRS = ("residual", "strong")


@functools.cache
def attack_of(name):
    [attack] = named_attacks([name], TRAINING)
    return attack


@pytest.mark.parametrize("name", BY_PAIRS)
def test_pairs_invert_what_is_invertible_and_nothing_else(name):
    check_inverts(attack_of(name))
    check_learns_nothing_from_constants(attack_of(name))
    check_learns_nothing_from_shuffled_pairs(attack_of(name))


def test_the_best_of_several_networks_inverts_too():
    check_inverts(attack_of("tuned"))


def test_names_are_the_attackers_own_and_in_one_order():
    known = attackers(TRAINING)
    pairs = ("mean image", "linear", "paper", "residual", "strong", "tuned")
    starts = ("linear", "paper", "residual", "strong")
    knowing = ("public", "white box", *(f"white box from {start}" for start in starts), "informed")
    assert tuple(known) == (*pairs, *knowing)
    attacks = named_attacks(list(known)[::-1], TRAINING)
    told = [attack.name for attack in attacks]
    assert told == list(known)
    needs = {attack.name: attack.knowledge for attack in attacks}
    assert [needs[name] for name in told[6:]] == [NETWORK, *[EVERYTHING] * 6]
    assert named_attacks(["tuned"], TRAINING)[0].training.rate_factors == (1.0, 2.0, 0.5)
    assert len(named_attacks(["tuned"], TRAINING)[0].capacities) == 3
    assert named_attacks(["strong"])[0].training.budget == Budget()


def test_whose_networks_are_not_there_is_not_offered():
    mine = Training(capacities={"mine": CAPACITIES[PAPER]})
    names = ["linear", "mine", "white box from mine"]
    assert [attack.name for attack in named_attacks(names, mine)] == names
    for name in ("tuned", "public", "white box"):
        with pytest.raises(UserError, match=f"--attackers names {name}; allowed are mean image"):
            named_attacks([name], mine)


@pytest.mark.parametrize("factors", [(), (0,), (1, -1), (float("nan"),), (float("inf"),)])
def test_rates_that_train_nothing_are_refused(factors):
    with pytest.raises(UserError, match=r"rate_factors=\S*: allowed are positive numbers"):
        Training(rate_factors=factors)


@pytest.mark.parametrize(
    ("names", "told"), [([], "nothing"), (["weak"], "weak"), (["strong"] * 2, "strong, strong")]
)
def test_other_names_are_refused(names, told):
    with pytest.raises(UserError) as raised:
        named_attacks(names)
    start = f"--attackers names {told}; allowed are mean image, linear, paper, residual, strong"
    assert str(raised.value).startswith(start)
    assert str(raised.value).endswith("each once; give one or more")
