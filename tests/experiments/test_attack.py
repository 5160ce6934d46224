"""Strong attacks on a finished run: the table, continuing, and what is refused."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from support.commands import refused

from experiments import attack
from privynet_jax.characterisation.measure import outcomes
from privynet_jax.characterisation.reopening import Reopened
from privynet_jax.platform import signals
from privynet_jax.results.risk_tables import strongest_values
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.session import current_session


@pytest.fixture
def attacked(tiny_run, tmp_path, run_command):
    """Runs the command on a copy of the run; the copy is its attribute `workdir`."""
    config = dataclasses.replace(tiny_run, workdir=tmp_path / "run")
    shutil.copytree(tiny_run.workdir, config.workdir)

    def run(*arguments):
        places = (f"--cache_dir={config.cache_dir}", f"--data_dir={config.data_dir}")
        return run_command(attack, f"--workdir={config.workdir}", *places, *arguments)

    run.workdir = config.workdir
    return run


def table(workdir):
    with (workdir / attack.STRONG_ATTACKS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_first_draws_are_attacked_and_nothing_twice(attacked, monkeypatch):
    scenario, opened = Reopened.scenario, []

    def counted(self, result, examples):
        opened.append(result.name)
        return scenario(self, result, examples)

    monkeypatch.setattr(Reopened, "scenario", counted)
    arguments = ("--attackers=linear,residual", "--attacked_images=0", "--strong_steps=2")
    assert attacked(*arguments).status == 0
    assert opened == ["m02_d003_r00"] * 2 + ["m04_d003_r00"] * 2
    rows = table(attacked.workdir)
    assert [(row["num_layers"], row["draw"], row["attacker"]) for row in rows] == [
        (layers, "0", name) for layers in "24" for name in ("linear", "residual")
    ]
    store, config = ResultStore.existing(attacked.workdir)
    for row, result in zip(rows[::2], store.grid_results(config)[::2], strict=True):
        own = strongest_values(result, store.load_arrays(result.name))["psnr_db"]
        assert float(row["grid_psnr_db"]) == pytest.approx(own.mean())
        gained = float(row["psnr_db_mean"]) - own.mean()
        assert float(row["beyond_grid_db"]) == pytest.approx(gained, abs=1e-3)
        for name in ("psnr_db_mean", "psnr_db_p95", "recognisable", "beyond_grid_db"):
            value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
            assert low <= value + 1e-9
            assert value <= high + 1e-9
        assert int(row["images"]) == len(own) == 20
        assert row["grid_attacker"] == result.strongest.attacker
        # The linear attack has no randomness: it is the grid's own, written with 6 digits.
        [linear] = [a for a in result.attacks if a.attacker == "linear"]
        assert float(row["psnr_db_mean"]) == pytest.approx(linear.psnr_db.mean, abs=1e-3)
    monkeypatch.setattr(attack, "outcomes", None)
    done = attacked(*arguments)
    assert done.status == 0
    assert table(attacked.workdir) == rows
    assert len(opened) == 4
    assert "of 2 cells" in done.output


def test_what_was_stopped_goes_on(attacked, monkeypatch):
    def stopped(*_):
        kept = current_session().checkpoint
        kept.sections["0001-strong"] = {"step": np.arange(3)}
        kept.save(wait=True)
        raise signals.Terminated

    arguments = ("--attackers=mean image", "--attacked_cells=m02_d003_r00")
    with monkeypatch.context() as patch:
        patch.setattr(attack, "outcomes", stopped)
        assert "run the same command again to continue" in attacked(*arguments).error

    def going_on(*given):
        found = current_session().checkpoint.arrays("0001-strong")
        np.testing.assert_array_equal(found["step"], np.arange(3))
        return outcomes(*given)

    monkeypatch.setattr(attack, "outcomes", going_on)
    assert attacked(*arguments).status == 0
    assert [path.name for path in (attacked.workdir / "strong_attacks").iterdir()] == ["rows"]


def test_what_was_attacked_before_a_stop_is_in_the_table(attacked, monkeypatch):
    asked = []

    def stopped_at_the_second(*given):
        asked.append(given)
        if len(asked) == 2:
            raise signals.Terminated
        return outcomes(*given)

    monkeypatch.setattr(attack, "outcomes", stopped_at_the_second)
    assert "to continue" in attacked("--attackers=mean image").error
    assert [row["num_layers"] for row in table(attacked.workdir)] == ["2"]


def test_another_call_adds_to_the_table(attacked):
    for cell in ("m04_d003_r00", "m02_d003_r01"):
        assert attacked("--attackers=mean image", f"--attacked_cells={cell}").status == 0
    found = [(row["num_layers"], row["draw"]) for row in table(attacked.workdir)]
    assert found == [("2", "1"), ("4", "0")]


def test_named_cells_and_some_images(attacked):
    done = attacked("--attacked_cells=m04_d003_r01", "--attackers=mean image")
    assert done.status == 0
    [row] = table(attacked.workdir)
    assert (row["num_layers"], row["depth"], row["draw"], row["images"]) == ("4", "3", "1", "20")
    assert row["knowledge"] == "pairs"
    assert "beaten in" in done.output


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--attacked_cells=m99", "--attacked_cells names m99; allowed are first, all"),
        ("--attacked_cells=", "--attacked_cells is empty"),
        ("--attackers=magic", "--attackers names magic; allowed are mean image, linear"),
        ("--attackers=linear,linear", "each once"),
        ("--attacked_cells=m02_d003_r00,m02_d003_r00", "--attacked_cells repeats"),
    ],
)
def test_bad_names_end_in_one_line(attacked, flag, named):
    refused(attacked(flag), named)
    assert not (attacked.workdir / attack.STRONG_ATTACKS).exists()


def test_other_settings_are_refused(attacked):
    assert attacked("--attackers=mean image").status == 0
    refused(
        attacked("--attackers=mean image", "--strong_steps=9"), "other settings", silently=False
    )


def test_an_unfinished_run_is_refused(attacked):
    next((attacked.workdir / "cells").iterdir()).unlink()
    refused(attacked(), "experiments.characterize")
