"""The command that compares attackers, in a process of its own: it has flags of other commands."""

import csv

import pytest
from support.commands import apart, refused_apart

# A white box that takes seconds; and who is measured on how many draws is told.
BEFORE = """
import functools
import array_record.python.array_record_data_source  # its flags would go with the first call
from privynet_jax.attacks import registry

def told(attack, ground, cells):
    print("measured", attack.name, "on", len(cells))
    return measured(attack, ground, cells)

registry.WhiteBox = functools.partial(registry.WhiteBox, steps=8, tuning_images=1)
measured, command._measured = command._measured, told
"""


@pytest.mark.slow
def test_attackers_are_compared_on_equal_terms_and_not_measured_twice(
    tmp_path, test_data_dir, vgg_weights
):
    out = tmp_path / "attackers"
    given = (
        *(f"--out={out}", "--layers=1", "--depths=4", "--steps=4", "--batch_size=8"),
        *("--pictured=2", "--max_images=target=20,auxiliary=30,validation=10,test=4"),
        *(f"--cache_dir={test_data_dir / 'weights'}", f"--data_dir={test_data_dir}"),
    )
    names = ["mean image", "linear", "transposed", "white box from linear"]
    first = (*given, "--attackers=linear", "--draws=2")
    second = (*given, f"--attackers={','.join(names)}")
    done = apart("compare_attackers", first, second, before=BEFORE)
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 0", done.stderr
    assert [line for line in lines if line.startswith("measured")] == [
        *("measured linear on 2", "measured mean image on 1"),
        *("measured transposed on 1", "measured white box from linear on 1"),
    ]
    rows = list(csv.DictReader((out / "attackers.csv").open(encoding="utf-8")))
    assert [row["attacker"] for row in rows] == names
    assert [row["knowledge"] for row in rows] == ["pairs"] * 3 + ["everything"]
    assert [row["steps"] for row in rows[:3]] == ["0", "0", "4"]
    assert rows[2]["learning_rate"] == "0.001"  # its own
    assert all(5 < float(row["psnr_db"]) <= float(row["p95_db"]) < 60 for row in rows)
    assert (out / "attackers.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in done.stdout for name in names)


def test_bad_flags_end_in_one_line(tmp_path):
    # There is no such data set: nothing is loaded before.
    usual = (f"--out={tmp_path}", "--dataset=none")
    names = "--attackers names stronger; allowed are mean image, linear"
    refused_apart(
        "compare_attackers",
        [
            ((*usual, "--rate_factors=1,-1"), "rate_factors=1,-1: allowed are "),
            ((*usual, "--image_size=90"), "image_size is 90; allowed are multiples of "),
            ((*usual, "--attackers=strong,stronger"), names),
            ((*usual, "--attackers=strong,stronger"), "srgan"),
            ((*usual, "--attackers=strong,public"), "public, which makes its pairs before it"),
        ],
    )
