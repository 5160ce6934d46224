"""The command: releases of one picture together against each alone; and what it refuses."""

import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support import handmade_results as handmade
from support.commands import everything_in, refused

from experiments import several_cuts
from privynet_jax.results.risk_tables import scored
from privynet_jax.results.work_directory import ResultStore


@pytest.mark.slow
def test_together_and_alone(tiny_run, run_command, tmp_path, monkeypatch, small_strong):
    workdir = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    names = "m02_d003_r00+m04_d003_r01"
    given = (
        f"--workdir={workdir}",
        f"--cache_dir={tiny_run.cache_dir}",
        f"--data_dir={tiny_run.data_dir}",
        "--training=1",
    )
    status, output, _ = run_command(several_cuts, *given, f"--together={names}")
    assert not status
    table = (workdir / "several_cuts.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["released"] for row in rows] == [*names.split("+"), "all of them"]
    values = [float(row["psnr_db"]) for row in rows]
    assert np.isfinite(values).all()
    assert float(rows[2]["gain_db"]) == pytest.approx(values[2] - max(values[:2]), abs=1e-4)
    assert rows[0]["gain_db"] == ""
    assert "beyond the best alone, dB" in output
    for row in rows[:2]:
        cell = ResultStore.existing(workdir)[0].load(row["released"])
        assert float(row["accuracy"]) == pytest.approx(cell.accuracy)
        gain = float(row["shared_accuracy"]) - float(row["accuracy"])
        assert float(row["shared_gain"]) == pytest.approx(gain, abs=1e-6)
    assert rows[2]["shared_accuracy"] == ""
    # The same in another order is the same, and nothing is trained again.
    monkeypatch.setattr(several_cuts, "measure", None)
    monkeypatch.setattr(several_cuts, "train", None)
    turned = "m04_d003_r01+m02_d003_r00"
    again = run_command(several_cuts, *given, f"--together={turned},{names}")
    assert again.output == output
    assert (workdir / "several_cuts.csv").read_text() == table


def test_estimates_are_compared_on_the_images_that_they_score():
    labels, right = np.array([0, 0, 0, 1]), np.array([0.0, 1, 1, 1])
    test = SimpleNamespace(labels=labels)
    store = SimpleNamespace(load_arrays=lambda name: {"accuracy": right[rows]})
    for mode in ("amortised", "dedicated"):
        rows = scored(labels, 3, mode)
        found = SimpleNamespace(
            store=store, parts=SimpleNamespace(test=test), settings={"mode": mode}
        )
        told = several_cuts._accuracy(found, "", right, np.arange(4))
        assert (told["shared_gain"], told["shared_gain_low"], told["shared_gain_high"]) == (0, 0, 0)


def test_refusals(run_command, tmp_path):
    store = ResultStore.open(
        tmp_path / "run", handmade.settings(draws=1, layers=[2, 4], depths=[8])
    )
    for num_layers in (2, 4):
        store.save(handmade.cell(num_layers, 8), {"a": np.ones(1)})
    noisy = ResultStore.open(tmp_path / "noisy", handmade.settings(mechanism="gaussian:sigma=1"))
    before = everything_in(tmp_path)
    for given in (
        "",
        "m02_d008_r00",
        "m02_d008_r00+m02_d008_r00",
        "m02_d008_r00+m09_d008_r00",
        "m02_d008_r00+m04_d008_r00,m02_d008_r00",
    ):
        done = run_command(several_cuts, f"--workdir={store.workdir}", f"--together={given}")
        refused(done, f"--together={given}: allowed are sets of two or more different cells")
        refused(done, "as in m02_d008_r00+m04_d008_r00")
    done = run_command(several_cuts, f"--workdir={noisy.workdir}", "--together=a+b")
    refused(done, "noisy is a grid under gaussian:sigma=1; several cuts are attacked where")
    assert everything_in(tmp_path) == before
