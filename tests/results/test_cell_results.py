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


@pytest.mark.parametrize("gain", [None, (1.0, 0.5, 1.75)])
def test_an_attack_survives_json(gain):
    attack = handmade.attack("linear", 12.0, gain=gain)
    content = json.loads(json.dumps(dataclasses.asdict(attack)))
    assert AttackResult.from_json(content) == attack
    if gain is None:  # older work directories say nothing of it
        content.pop("gain_db")
        assert AttackResult.from_json(content) == attack


def test_a_cells_limit_is_of_the_attacker_who_would_reach_most():
    slow, fast = handmade.attack("strong", 20.0, gain=(3.0, 1.0, 4.0)), handmade.attack("x", 21.0)
    result = handmade.cell(attacks=(slow, fast))
    row, (first, second) = result.row(), result.attack_rows()
    names = [f"psnr_db_limit{end}" for end in ("", "_low", "_high")]
    assert [row[name] for name in names] == [first[name] for name in names] == [23.0, 21.0, 24.0]
    assert row["validation_psnr_db_limit"] == 22.75
    assert row["attacker"] == "x"
    assert {second[name] for name in names} == {""}
    # Whose gain is not known reaches what it reached.
    best = handmade.cell(attacks=(slow, handmade.attack("x", 30.0))).row()
    assert [best[name] for name in names] == [30.0] * 3
    assert handmade.cell().row()["psnr_db_limit"] == ""


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
