"""The command that compares attackers, in processes of its own: it has flags of other commands."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Done, refused_apart

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.computes


def compared(*arguments):
    command = [sys.executable, "-m", "experiments.compare_attackers", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


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
    done = compared(*given, "--attackers=linear,transposed", "--draws=2")
    assert done.status == 0, done.error
    kept = {path: path.stat().st_mtime_ns for path in (out / "rows").glob("?*[0-9a-f].json")}
    assert len(kept) == 2 * 2
    names = ["mean image", "linear", "transposed", "white box from linear"]
    done = compared(*given, f"--attackers={','.join(names)}")
    assert done.status == 0, done.error
    rows = list(csv.DictReader((out / "attackers.csv").open(encoding="utf-8")))
    assert [row["attacker"] for row in rows] == names
    assert [row["knowledge"] for row in rows] == ["pairs"] * 3 + ["everything"]
    assert [row["steps"] for row in rows[:3]] == ["0", "0", "4"]
    assert rows[2]["learning_rate"] == "0.001"  # its own
    assert all(5 < float(row["psnr_db"]) <= float(row["p95_db"]) < 60 for row in rows)
    assert (out / "attackers.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in done.output for name in names)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


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
