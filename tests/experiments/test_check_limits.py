"""The command that checks limits, in a process of its own: it has flags of other commands."""

import csv

import pytest
from support.commands import apart, refused_apart

# The strong attacker without its blocks, as the fixture `small_strong` makes it.
BEFORE = """
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from support.small_strong import without_blocks

CAPACITIES[STRONG] = without_blocks()
"""


@pytest.mark.slow
def test_limits_are_held_against_ten_times_the_training(tmp_path, test_data_dir, vgg_weights):
    given = (
        *(f"--out={tmp_path / 'limits'}", "--layers=1", "--depths=2,4", "--draws=1"),
        *("--steps=30", "--batch_size=3"),
        "--max_images=target=20,auxiliary=60,validation=20,test=8",
        *(f"--cache_dir={test_data_dir / 'weights'}", f"--data_dir={test_data_dir}"),
    )
    done = apart("check_limits", given, before=BEFORE)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    rows = list(csv.DictReader((tmp_path / "limits" / "limits.csv").open(encoding="utf-8")))
    assert [row["cell"] for row in rows] == ["m01_d002_r00", "m01_d004_r00"]
    inside = 0
    for row in rows:
        names = ("psnr_db_limit_low", "psnr_db_limit", "psnr_db_limit_high", "reached_db")
        low, value, high, reached = (float(row[name]) for name in names)
        assert low <= value <= high
        assert (row["inside"] == "True") == (low <= reached <= high)
        assert float(row["reached_db_low"]) < reached < float(row["reached_db_high"])
        inside += low <= reached <= high
    assert f"{inside} of 2 intervals hold what was reached" in done.stdout


def test_bad_flags_end_in_one_line(tmp_path):
    refused_apart(
        "check_limits",
        [
            (("--dataset=none",), "no --out is given"),
            ((f"--out={tmp_path}", "--depths=0"), "depth 0 at layer"),
        ],
    )
