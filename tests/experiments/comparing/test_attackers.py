"""Attackers by name, as commands set them on a topology."""

import numpy as np
import pytest

from experiments.comparing.attackers import (
    TUNED,
    fitted_on,
    named,
    needs_pairs_alone,
    project_attackers,
    training_columns,
)
from privynet_jax.attacks.base import Pairs
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.training.attackers import CAPACITIES

ATTACKS = project_attackers(Budget(steps=2, batch_size=4), (1.0,))


def test_all_are_there_and_those_who_know_the_network_come_last():
    names = [attack.name for attack in ATTACKS]
    boxes = ["white box from linear", "white box from strong"]
    assert names == ["mean image", "linear", *CAPACITIES, TUNED, *boxes]
    assert [attack.name for attack in ATTACKS if not needs_pairs_alone(attack)] == boxes


def test_names_choose_in_the_order_of_the_list():
    chosen = named(["tuned", "linear"], ATTACKS, "attack_with")
    assert [attack.name for attack in chosen] == ["linear", "tuned"]
    with pytest.raises(UserError, match="--attack_with=linear,linear; allowed is each name once"):
        named(["linear", "linear"], ATTACKS, "attack_with")
    for wrong in (["linear", "magic"], []):
        with pytest.raises(UserError, match=r"names (magic|nothing); allowed are mean image, lin"):
            named(wrong, ATTACKS, "attack_with")


def test_the_tuned_one_chooses_among_all_networks_and_three_rates():
    [tuned] = named([TUNED], ATTACKS, "attack_with")
    assert [capacity.name for capacity in tuned.capacities] == list(CAPACITIES)
    assert len(set(tuned.rate_factors)) == 3
    assert tuned.budget == Budget(steps=2, batch_size=4)


class Scene:
    """What `fitted_on` asks of a scenario, with images that are all alike."""

    def knowledge(self, name):
        return type("Known", (), {"name": name, "local": None})()

    def pairs(self):
        return Pairs(np.ones((6, 2, 2, 3), np.float32), np.full((6, 8, 8, 3), 51, np.uint8))


def test_columns_of_what_needs_no_training():
    [mean] = named(["mean image"], ATTACKS, "attack_with")
    fitted, knowledge = fitted_on(Scene(), mean, None)
    assert knowledge == "pairs"
    np.testing.assert_allclose(fitted.reconstruct(np.ones((1, 2, 2, 3))), 0.2, rtol=1e-6)
    assert training_columns(fitted.report) == {
        **{"network": "", "steps": 0, "learning_rate": ""},
        **{"falling_percent_per_doubling": 0.0, "converged": True},
    }
