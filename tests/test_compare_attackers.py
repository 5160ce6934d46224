"""The command that compares attackers, run as users run it."""

import csv
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from experiments import compare_attackers

PROJECT = Path(__file__).parents[1]


def compared(*arguments):
    command = [sys.executable, "-m", "experiments.compare_attackers", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def test_attackers_are_compared_on_equal_terms(tmp_path, test_data_dir, vgg_weights):
    out = tmp_path / "attackers"
    done = compared(
        f"--out={out}",
        "--layers=4",
        "--depths=4",
        "--attackers=mean image,linear,residual,white box from linear",
        "--steps=4",
        "--batch_size=8",
        "--pictured=2",
        "--max_images=target=20,auxiliary=60,validation=20,test=8",
        f"--cache_dir={test_data_dir / 'weights'}",
        f"--data_dir={test_data_dir}",
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "attackers.csv").open(encoding="utf-8")))
    names = ["mean image", "linear", "residual", "white box from linear"]
    assert [row["attacker"] for row in rows] == names
    assert [row["knowledge"] for row in rows] == ["pairs"] * 3 + ["everything"]
    assert [row["steps"] for row in rows[:3]] == ["0", "0", "4"]
    assert all(5 < float(row["psnr_db"]) <= float(row["p95_db"]) < 60 for row in rows)
    assert (out / "attackers.png").read_bytes().startswith(b"\x89PNG")
    assert "residual" in done.stdout


@pytest.mark.parametrize("factors", ["0", "1,-1", "nan", ""])
def test_rates_that_train_nothing_end_in_one_line(tmp_path, run_command, monkeypatch, factors):
    monkeypatch.setattr(compare_attackers, "load_parts", None)  # nothing is computed
    done = run_command(compare_attackers, f"--out={tmp_path}", f"--rate_factors={factors}")
    commands.refused(done, f"--rate_factors={factors}: allowed are ")


def test_unknown_attackers_end_in_one_line(tmp_path):
    done = compared(f"--out={tmp_path}", "--attackers=strong,stronger", "--steps=1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: --attackers names stronger; allowed are mean image, srgan, transposed, linear"
    )
