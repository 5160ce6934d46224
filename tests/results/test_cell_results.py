"""What a row says of a cell and of its attackers."""

import dataclasses
import json

import pytest
from support import handmade_results as handmade

from privynet_jax.results.cell_results import AttackResult


def test_the_strongest_attacker_is_the_privacy_loss():
    attacks = (
        handmade.attack("first", 15.0),
        handmade.attack("second", 18.0),
        handmade.attack("third", 17.0),
    )
    result = handmade.cell(attacks=attacks)
    assert result.strongest == attacks[1]
    assert dataclasses.replace(result, attacks=attacks[::-1]).strongest == attacks[1]


def test_each_privacy_column_is_of_the_attacker_who_is_strongest_in_it():
    strong, other = (
        handmade.attack("residual", 20.0, ssim=0.5),
        handmade.attack("linear", 12.0, 0.9),
    )
    row = handmade.cell(attacks=(strong, other)).row()
    assert (row["attacker"], row["psnr_db_mean"], row["psnr_db_max"]) == ("residual", 20.0, 29.0)
    assert (row["ssim_mean"], row["ssim_p95"]) == (0.9, 0.9 + 0.2)


def test_an_attack_survives_json():
    attack = handmade.attack("linear", 12.0)
    assert AttackResult.from_json(json.loads(json.dumps(dataclasses.asdict(attack)))) == attack


@pytest.mark.parametrize(("falling", "converged"), [(None, None), (4.0, True), (5.1, False)])
def test_rows_say_whether_the_attack_had_converged(falling, converged):
    attack = dataclasses.replace(
        handmade.attack("strong", 30.0), falling_percent_per_doubling=falling, converged=converged
    )
    result = handmade.cell(attacks=(handmade.attack("linear", 12.0), attack))
    for row in (result.row(), result.attack_rows()[1]):
        assert row["converged"] == ("" if converged is None else converged)
        assert row["falling_percent_per_doubling"] == ("" if falling is None else falling)
    assert result.attack_rows()[0]["converged"] == ""
