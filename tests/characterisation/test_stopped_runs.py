"""Runs that a signal or a diverged cell stops: what they measured is saved."""

import dataclasses
import os
import signal
from types import SimpleNamespace

import pytest
from support import tiny_runs

from privynet_jax import Config, characterise
from privynet_jax.characterisation import executors, grid_run, scoring
from privynet_jax.errors import DivergedError
from privynet_jax.estimates.amortised import LayerData
from privynet_jax.platform import signals
from privynet_jax.results.cells import Measurement
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.checkpoints import Checkpoint


@pytest.fixture
def handled():
    before = {number: signal.getsignal(number) for number in signals.HANDLED}
    signals.handle_signals()
    yield
    signals.handle_signals()  # forgets what came
    for number, former in before.items():
        signal.signal(number, former)


def sends_a_signal(really, *, first):
    def sending(*arguments, **named):
        if first:
            os.kill(os.getpid(), signal.SIGTERM)
        found = really(*arguments, **named)
        if not first:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    return sending


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("mode", "room", "name", "first"),
    [
        ("dedicated", grid_run, "outcomes", False),
        ("dedicated", ResultStore, "save", False),
        ("dedicated", Checkpoint, "discard", True),
        ("linear", executors, "cell_row", True),
    ],
)
def test_what_is_measured_is_saved(tmp_path, test_data_dir, monkeypatch, mode, room, name, first):
    given = {"attackers": ()} if mode == "linear" else {}
    config = tiny_runs.settings(tmp_path, test_data_dir, layers=(2,), mode=mode, **given)
    config = dataclasses.replace(config, checkpoint_minutes=1e3)
    monkeypatch.setattr(room, name, sends_a_signal(getattr(room, name), first=first))
    with pytest.raises(signals.Terminated):
        characterise(config)
    # Both cells, though no checkpoint was ever due; and nothing is left to continue from.
    assert len(list((config.workdir / "cells").glob("*.json"))) == 2
    assert not list((config.workdir / "training").glob("*"))


def test_all_groups_are_measured_beside_cells_that_diverge(monkeypatch, tmp_path):
    config = Config(tmp_path, layers=(2, 4, 7), depths=(4, 8), draws=1)
    cells = list(config.cells())
    lost, told = {cells[0], cells[-1]}, []

    def measured(group, *_):
        return [
            DivergedError(each.name) if each in lost else Measurement(each, {}, {}, {}, seconds=0.0)
            for each in group
        ]

    monkeypatch.setattr(grid_run, "outcomes", measured)
    monkeypatch.setattr(grid_run, "Scenario", lambda *_: None)
    monkeypatch.setattr(grid_run, "protocol_of", lambda *_: None)
    features = dict.fromkeys(config.layers)
    run = grid_run.GridRun(config, cells, cells, None, None, lambda: features, None)
    with pytest.raises(DivergedError, match=f"^{cells[0].name}; and {cells[-1].name}$"):
        told.extend(each.cell for each in grid_run.dedicated_measurements(run))
    assert told == [cells[1], cells[4], *cells[2:4]]  # of 2 layers, 7, and 4


@pytest.mark.usefixtures("handled")
def test_a_layer_s_networks_are_kept(tmp_path, test_data_dir, monkeypatch):
    config = tiny_runs.settings(tmp_path, test_data_dir, layers=(2,), mode="amortised")
    whole = []  # what it trains is there when the signal counts

    def trained(*given):
        whole.append(given)

    monkeypatch.setattr(scoring, "trained_networks", sends_a_signal(trained, first=True))
    with pytest.raises(signals.Terminated):
        scoring.layer_networks(config, LayerData(SimpleNamespace(num_layers=2), None, None), {})
    assert whole
