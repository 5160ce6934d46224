"""Runs on a cluster whose only worker is this process, to which everything travels all the same."""

import contextlib
import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from support import tiny_runs
from support.whole_runs import all_tables

from privynet_jax import Config, characterise
from privynet_jax.characterisation import executors, grid_run
from privynet_jax.characterisation import run as running
from privynet_jax.characterisation.grid_run import GridRun
from privynet_jax.errors import DivergedError
from privynet_jax.results.risk_tables import INTERVALS
from privynet_jax.results.work_directory import ResultStore


def travelled(thing):
    return pickle.loads(pickle.dumps(thing))


class OneWorker:
    """What stands for a `Cluster`."""

    def __init__(self, work, cores):
        self.run = travelled(work)()

    def answers(self, units, early=0, kind=None):
        for unit in units:
            yield unit, travelled(travelled(unit)(self.run))


@pytest.fixture
def joined(monkeypatch):
    """How often a cluster was joined."""
    addresses = []

    def join(address):
        addresses.append(address)
        return contextlib.nullcontext(OneWorker)

    monkeypatch.setattr(running, "joined", join)
    return addresses


def test_what_diverges_leaves_tables_and_pictures_of_all_others(
    joined, monkeypatch, tmp_path, test_data_dir
):
    config = tiny_runs.settings(tmp_path, test_data_dir, layers=(2,), cluster="auto")
    really, shown = grid_run.outcomes, []

    def diverging(*given):
        first, *others = really(*given)
        return [DivergedError(first.cell.name), *others]

    monkeypatch.setattr(grid_run, "outcomes", diverging)
    with pytest.raises(DivergedError, match=r"^m02_d003_r00$"):
        characterise(config, lambda done: shown.append([own.draw for own in done.results]))
    assert shown == [[1]]
    written = {path.name for path in config.workdir.iterdir()}
    assert {"reference.csv", "risk.csv", "results.csv", "test_pictures.npz"} <= written
    monkeypatch.setattr(grid_run, "outcomes", really)
    assert len(characterise(config).results) == 2
    assert joined == ["auto", "auto"]
    assert INTERVALS in ResultStore(config.workdir).load_arrays("m02_d003_r00")
    tables = all_tables(config.workdir)
    # What is finished needs nobody.
    assert len(characterise(config).results) == 2
    assert len(joined) == 2
    # A process alone does the same.
    alone = dataclasses.replace(config, cluster="", workdir=tmp_path / "alone")
    characterise(alone)
    assert all_tables(alone.workdir) == tables
    assert len(joined) == 2


def test_each_worker_has_a_home_of_its_own(monkeypatch, tmp_path, small_parts):
    config = Config(tmp_path / "run", cache_dir="~/cache")
    weights = SimpleNamespace(fingerprint="of weights")
    run = GridRun(config, (), (), small_parts, weights, dict, np.arange(2))
    work = travelled(executors._portable(run, {2: range(64)}))
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    found = work()
    assert found.config.feature_cache == tmp_path / "another" / "cache"
    assert found.config.workdir.parent == tmp_path / "another" / "cache" / "workers"
    # What all groups share is made once.
    assert found.features() is found.features()
    assert found.protocol is found.protocol
