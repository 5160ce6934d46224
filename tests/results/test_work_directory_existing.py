"""A work directory that is only read: finished, or refused in one line that says why."""

import json

import numpy as np
import pytest
from support import handmade_results as handmade
from support.commands import everything_in

from privynet_jax.errors import UserError
from privynet_jax.results.work_directory import ResultStore

CONFIG = handmade.settings(layers=(4, 2), depths=(3, 8))
CELLS = [(m, d, r) for m in (2, 4) for d in (3, 8) for r in (0, 1)]


@pytest.fixture
def workdir(tmp_path):
    """A finished work directory, filled in no order."""
    store = ResultStore.open(tmp_path / "run", CONFIG)
    for cell in CELLS[::-1]:
        store.save(handmade.cell(*cell), {"accuracy": np.ones(1)})
    return store.workdir


def read(workdir):
    store, config = ResultStore.existing(workdir)
    return store.grid_results(config)


def refused(workdir):
    with pytest.raises(UserError) as raised:
        read(workdir)
    message = str(raised.value)
    assert str(workdir) in message
    assert "\n" not in message
    return message


def test_a_finished_grid_comes_back_in_order_and_untouched(workdir):
    before = everything_in(workdir)
    store, config = ResultStore.existing(workdir)
    assert (store.workdir, config["layers"]) == (workdir, [4, 2])
    assert store.grid_results(config) == [handmade.cell(*cell) for cell in CELLS]
    assert everything_in(workdir) == before


def test_selections_have_cells_of_their_own(tmp_path):
    config = {**CONFIG, "layers": (2,), "depths": (3,), "selections": ["random", "direct", "both"]}
    store = ResultStore.open(tmp_path / "run", config)
    cells = [
        handmade.cell(2, 3, draw, selection=method)
        for method in config["selections"]
        for draw in (0, 1)
    ]
    for cell in cells[::-1]:
        store.save(cell, {"accuracy": np.ones(1)})
    assert len(list((store.workdir / "cells").glob("*.json"))) == 6
    assert read(store.workdir) == cells
    (store.workdir / "cells" / "m02_d003_direct_r00.json").unlink()
    message = refused(store.workdir)
    assert "1 of 6 cells are missing" in message
    assert "depth 3, selection direct, draw 0" in message
    # Of a grid of which some cells alone were asked for, no others are missed.
    some = {**config, "only": [cells[4].name, cells[1].name]}
    (store.workdir / "config.json").write_text(json.dumps(some))
    assert read(store.workdir) == [cells[1], cells[4]]
    # Cells that nobody asked for are no part of the grid.
    (store.workdir / "config.json").write_text(json.dumps({**config, "selections": ["both"]}))
    assert read(store.workdir) == cells[4:]


def test_no_work_directory(tmp_path):
    assert "has no config.json" in refused(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    assert "has no config.json" in refused(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", "17"])
def test_damaged_settings(workdir, content):
    (workdir / "config.json").write_text(content)
    assert "config.json is missing or damaged" in refused(workdir)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, None) for name in CONFIG),
        ("layers", "2,4"),
        ("layers", []),
        ("depths", [3, "8"]),
        ("draws", "two"),
        ("selections", "random"),
        ("selections", []),
        ("attacker", 3),
        ("cloud", {}),
    ],
)
def test_settings_of_another_version(workdir, setting, value):
    settings = {**CONFIG, setting: value}
    if value is None:
        del settings[setting]
    (workdir / "config.json").write_text(json.dumps(settings))
    message = refused(workdir)
    assert f"says nothing usable of {setting}:" in message
    assert "characterise again" in message


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_an_unfinished_grid_says_what_is_missing(workdir, suffix):
    (workdir / "cells" / f"m04_d003_r01.{suffix}").unlink()
    message = refused(workdir)
    assert "is not finished: 1 of 8 cells are missing" in message
    assert "4 layers, depth 3, selection random, draw 1" in message


def test_a_grid_that_was_never_begun(workdir):
    for path in (workdir / "cells").iterdir():
        path.unlink()
    (workdir / "cells").rmdir()
    assert "8 of 8 cells are missing" in refused(workdir)


def test_a_damaged_cell(workdir):
    path = workdir / "cells" / "m02_d003_r00.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert f"{path} is missing or damaged" in refused(workdir)


@pytest.mark.parametrize("lacking", ["validation_accuracy", "attacks", "cost"])
def test_a_cell_of_another_version(workdir, lacking):
    path = workdir / "cells" / "m02_d003_r00.json"
    content = json.loads(path.read_text())
    del content[lacking]
    path.write_text(json.dumps(content))
    message = refused(workdir)
    assert f"{path} is missing or damaged; " in message
    assert "another version" in message


@pytest.mark.parametrize("lacking", ["validation_psnr_db", "p99"])
def test_an_attack_of_another_version(workdir, lacking):
    path = workdir / "cells" / "m02_d003_r00.json"
    content = json.loads(path.read_text())
    attack = content["attacks"][0]
    del (attack if lacking in attack else attack["psnr_db"])[lacking]
    path.write_text(json.dumps(content))
    assert "another version" in refused(workdir)
