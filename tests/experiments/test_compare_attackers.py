"""The command that compares attackers, in processes of its own: it has flags of other commands."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Done, refused

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.computes


def compared(*arguments):
    command = [sys.executable, "-m", "experiments.compare_attackers", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "knows"),
    [("residual", "pairs"), ("white box from linear", "everything")],
)
def test_attackers_are_compared_on_equal_terms(tmp_path, test_data_dir, vgg_weights, last, knows):
    out = tmp_path / "attackers"
    done = compared(
        f"--out={out}",
        "--layers=1",
        "--depths=4",
        f"--attackers=mean image,linear,{last}",
        "--steps=4",
        "--batch_size=8",
        "--pictured=2",
        "--max_images=target=20,auxiliary=60,validation=20,test=8",
        f"--cache_dir={test_data_dir / 'weights'}",
        f"--data_dir={test_data_dir}",
    )
    assert done.status == 0, done.error
    rows = list(csv.DictReader((out / "attackers.csv").open(encoding="utf-8")))
    assert [row["attacker"] for row in rows] == ["mean image", "linear", last]
    assert [row["knowledge"] for row in rows] == ["pairs", "pairs", knows]
    assert [row["steps"] for row in rows[:2]] == ["0", "0"]
    assert rows[2]["steps"] == "4" or last != "residual"
    assert all(5 < float(row["psnr_db"]) <= float(row["p95_db"]) < 60 for row in rows)
    assert (out / "attackers.png").read_bytes().startswith(b"\x89PNG")
    assert last in done.output


@pytest.mark.parametrize("factors", ["0", "1,-1"])
def test_rates_that_train_nothing_end_in_one_line(tmp_path, factors):
    # No such data set: nothing is loaded before.
    done = compared(f"--out={tmp_path}", f"--rate_factors={factors}", "--dataset=none")
    refused(done, f"--rate_factors={factors}: allowed are ")


def test_unknown_attackers_end_in_one_line(tmp_path):
    done = compared(f"--out={tmp_path}", "--attackers=strong,stronger", "--steps=1")
    refused(done, "--attackers names stronger; allowed are mean image, srgan, transposed, linear")
