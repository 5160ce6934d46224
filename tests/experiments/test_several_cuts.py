"""The command: releases of one picture together against each alone; and what it refuses."""

import csv

import numpy as np
import pytest
from support.commands import refused

from experiments import several_cuts


def command_on(run_command, config, *given):
    places = f"--cache_dir={config.cache_dir}", f"--data_dir={config.data_dir}"
    return run_command(several_cuts, f"--workdir={config.workdir}", *places, *given)


@pytest.mark.slow
def test_together_and_alone(tiny_run, run_command):
    names = "m02_d003_r00+m04_d003_r01"
    status, output, _ = command_on(run_command, tiny_run, f"--together={names}", "--training=1")
    assert not status
    path = tiny_run.workdir / "several_cuts.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    path.unlink()  # nobody may write into it
    assert [row["released"] for row in rows] == [*names.split("+"), "all of them"]
    values = [float(row["psnr_db"]) for row in rows]
    assert np.isfinite(values).all()
    assert float(rows[2]["gain_db"]) == pytest.approx(values[2] - max(values[:2]), abs=1e-4)
    assert rows[0]["gain_db"] == ""
    assert "beyond the best alone, dB" in output


@pytest.mark.slow
def test_refusals(tiny_run, run_command):
    for given in (
        "",
        "m02_d003_r00",
        "m02_d003_r00+m02_d003_r00",
        "m02_d003_r00+m09_d003_r00",
        "m02_d003_r00+m04_d003_r01,m02_d003_r00",
    ):
        done = command_on(run_command, tiny_run, f"--together={given}")
        refused(done, f"--together={given}: allowed are sets of two or more different cells")
    assert not (tiny_run.workdir / "several_cuts.csv").exists()
