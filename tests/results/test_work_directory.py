"""The work directory: what is kept, what is refused, and the tables made from it."""

import csv
import json
import os
import stat
import struct
import zipfile

import numpy as np
import pytest
from support import handmade_results as handmade

from privynet_jax.errors import UserError
from privynet_jax.results import work_directory as store_module
from privynet_jax.results.work_directory import ResultStore

CONFIG = {"layers": (2, 4), "seed": 0, "cloud": {"steps": 300}, "fingerprint": "abc"}
ARRAYS = {
    "accuracy": np.array([1, 0, 1], np.float32),
    "residual_examples": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
}


@pytest.fixture
def store(tmp_path):
    return ResultStore.open(tmp_path / "run", CONFIG)


def assert_damaged(path, read):
    with pytest.raises(UserError) as raised:
        read()
    message = str(raised.value)
    assert str(path) in message
    assert "missing or damaged; " in message
    assert "\n" not in message


# The store.


def test_a_cell_comes_back_as_it_was_saved(store):
    result = handmade.cell()
    assert not store.has(result.name)
    store.save(result, ARRAYS)
    again = ResultStore.open(store.workdir, CONFIG)
    assert again.has(result.name)
    assert again.load(result.name) == result
    loaded = again.load_arrays(result.name)
    assert set(loaded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_a_cell_saved_again_is_replaced(store):
    store.save(handmade.cell(accuracy=0.25), ARRAYS)
    store.save(handmade.cell(accuracy=0.75), {"accuracy": np.zeros(1)})
    assert store.load("m02_d003_r00").accuracy == 0.75
    assert set(store.load_arrays("m02_d003_r00")) == {"accuracy"}


def test_a_cell_is_not_done_before_its_result_is_written(store, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        store.save(handmade.cell(), ARRAYS)
    monkeypatch.undo()
    assert not store.has("m02_d003_r00")
    # What came first stays, and is overwritten when the cell is run again.
    assert [path.suffix for path in (store.workdir / "cells").iterdir()] == [".npz"]


# The settings.


def test_equal_settings_open_a_work_directory_again(store):
    # Tuples become lists in JSON, and the order of keys says nothing.
    same = {"layers": [2, 4], **{key: CONFIG[key] for key in sorted(CONFIG) if key != "layers"}}
    assert ResultStore.open(store.workdir, same) == store
    assert json.loads((store.workdir / "config.json").read_text())["layers"] == [2, 4]


def test_every_setting_that_differs_is_named_in_one_line(store):
    before = (store.workdir / "config.json").read_bytes()
    changed = {**CONFIG, "layers": (2,), "seed": 7, "more": True, "cloud": {"steps": 9}}
    del changed["fingerprint"]
    with pytest.raises(UserError) as raised:
        ResultStore.open(store.workdir, changed)
    message = str(raised.value)
    assert "\n" not in message
    assert str(store.workdir) in message
    for part in (
        "layers was [2, 4] and is now [2]",
        "seed was 0 and is now 7",
        "more was None and is now True",
        "cloud was {'steps': 300} and is now {'steps': 9}",
        "fingerprint was 'abc' and is now None",
    ):
        assert part in message
    assert (store.workdir / "config.json").read_bytes() == before


def test_only_what_differs_is_named(store):
    with pytest.raises(UserError) as raised:
        ResultStore.open(store.workdir, {**CONFIG, "seed": 1})
    assert "seed was 0" in str(raised.value)
    assert "layers was" not in str(raised.value)


# Folders.


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    store = ResultStore.open(tmp_path / "a" / "b", CONFIG)
    assert {path.name for path in store.workdir.iterdir()} == {"config.json", "cells"}


@pytest.mark.parametrize("leftover", [None, ".config.json-k1ll3d", ".DS_Store"])
def test_hidden_leftovers_are_no_content(tmp_path, leftover):
    if leftover:
        (tmp_path / leftover).write_text("{")
    assert ResultStore.open(tmp_path, CONFIG).workdir == tmp_path
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("entry", ["thesis.tex", "cells/"])
def test_somebody_elses_folder_is_left_alone(tmp_path, entry):
    (tmp_path / entry).mkdir() if entry.endswith("/") else (tmp_path / entry).touch()
    with pytest.raises(UserError, match=r"not empty and has no config\.json.*give a new folder"):
        ResultStore.open(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [entry.rstrip("/")]


# Two processes by mistake.


def other_process_writes(monkeypatch, config):
    """Lets another process make the work directory after this one looked for its settings."""
    really = store_module._check_empty

    def meanwhile(workdir, path):
        monkeypatch.setattr(store_module, "_check_empty", really)
        ResultStore.open(workdir, config)
        really(workdir, path)

    monkeypatch.setattr(store_module, "_check_empty", meanwhile)


def test_two_processes_make_one_work_directory(tmp_path, monkeypatch):
    other_process_writes(monkeypatch, CONFIG)
    store = ResultStore.open(tmp_path / "run", CONFIG)
    assert {path.name for path in store.workdir.iterdir()} == {"config.json", "cells"}


def test_of_two_processes_with_different_settings_the_first_decides(tmp_path, monkeypatch):
    other_process_writes(monkeypatch, {**CONFIG, "seed": 1})
    with pytest.raises(UserError, match="seed was 1 and is now 0"):
        ResultStore.open(tmp_path / "run", CONFIG)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 1


def test_settings_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = ResultStore.open(tmp_path / "run", CONFIG)
    assert ResultStore.open(tmp_path / "run", CONFIG) == store


def test_each_result_is_read_once(store, monkeypatch):
    names = [handmade.cell(draw=draw).name for draw in range(3)]
    really, loaded = ResultStore.load, []

    def load(self, name):
        loaded.append(name)
        return really(self, name)

    monkeypatch.setattr(ResultStore, "load", load)
    for draw in range(3):
        store.save(handmade.cell(draw=draw), ARRAYS)
        store.write_tables(names)
    assert loaded == names
    store.save(handmade.cell(draw=1, accuracy=0.75), ARRAYS)
    assert [result.accuracy for result in store.write_tables(names)] == [0.5, 0.75, 0.5]
    assert loaded == [*names, names[1]]


# Damage.


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"[]", b"3", b"\xff\xfe\x00"])
def test_damaged_settings(store, content):
    path = store.workdir / "config.json"
    path.write_bytes(content)
    assert_damaged(path, lambda: ResultStore.open(store.workdir, CONFIG))


def without(key):
    return lambda content: {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without("attacks"), id="no attacks"),
        pytest.param(without("accuracy"), id="no accuracy"),
        pytest.param(lambda content: {**content, "new": 1}, id="unknown field"),
        pytest.param(lambda content: {**content, "attacks": [{}]}, id="empty attack"),
        pytest.param(lambda content: {**content, "attacks": 3}, id="attacks no list"),
        pytest.param(lambda content: {**content, "channels": None}, id="no channels"),
        pytest.param(lambda content: [content], id="a list"),
    ],
)
def test_a_cell_that_says_something_else(store, change):
    store.save(handmade.cell(), ARRAYS)
    path = store.workdir / "cells" / "m02_d003_r00.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert_damaged(path, lambda: store.load("m02_d003_r00"))


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_cell(store, suffix, kept):
    store.save(handmade.cell(), ARRAYS)
    path = store.workdir / "cells" / f"m02_d003_r00.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    load = store.load if suffix == "json" else store.load_arrays
    assert_damaged(path, lambda: load("m02_d003_r00"))


def test_a_cell_without_its_arrays(store):
    store.save(handmade.cell(), ARRAYS)
    path = store.workdir / "cells" / "m02_d003_r00.npz"
    path.unlink()
    assert_damaged(path, lambda: store.load_arrays("m02_d003_r00"))


def test_arrays_that_changed_on_the_disk(store):
    # Random numbers do not compress, so this byte is one of them: the archive's checksum tells.
    store.save(handmade.cell(), {"accuracy": np.random.default_rng(0).random(1000)})
    path = store.workdir / "cells" / "m02_d003_r00.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_damaged(path, lambda: store.load_arrays("m02_d003_r00"))


def test_arrays_whose_compression_is_damaged(store):
    store.save(handmade.cell(), {"accuracy": np.zeros(1000)})
    path = store.workdir / "cells" / "m02_d003_r00.npz"
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", content, 26)
    # The first bits after a member's header say how a block is compressed; 3 is no such way.
    content[30 + name_length + extra_length] |= 0b110
    path.write_bytes(content)
    assert_damaged(path, lambda: store.load_arrays("m02_d003_r00"))


def test_a_single_array_is_no_archive(store):
    path = store.workdir / "cells" / "m02_d003_r00.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert_damaged(path, lambda: store.load_arrays("m02_d003_r00"))


def test_a_table_that_is_no_text(store):
    path = store.workdir / "reference.csv"
    path.write_bytes(b"reference\n\xff\xfe\n")
    assert_damaged(path, lambda: store.read_csv("reference.csv"))


def test_objects_are_never_unpickled(store):
    path = store.workdir / "cells" / "m02_d003_r00.npz"
    np.savez(path, accuracy=np.array([print], dtype=object))
    assert_damaged(path, lambda: store.load_arrays("m02_d003_r00"))


# Tables.


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_columns_of_a_row(store):
    strong = handmade.attack("residual", 20.0, ssim=0.5)
    result = handmade.cell(
        num_layers=4, depth=3, draw=1, attacks=(strong, handmade.attack("linear", 12.0, ssim=0.9))
    )
    store.save(result, ARRAYS)
    assert store.write_tables([result.name]) == [result]
    [row] = read(store.workdir / "results.csv")
    expected = {
        "num_layers": "4",
        "layer": "conv2_2",
        "depth": "3",
        "draw": "1",
        "channels": "0 1 2",
        "accuracy": "0.5",
        "psnr_db_mean": "20.0",
        "psnr_db_p95": "25.0",
        "psnr_db_max": "29.0",
        "ssim_mean": "0.9",  # each column is of the attacker who is strongest in it
        "attacker": "residual",
        "knowledge": "pairs",
        "environment": "jax 1.2.3 on an abacus",
        "local_macs": "6000000",
        "local_param_bytes": "7000",
        "release_bytes": "3072",
        "train_seconds": "1.235",
    }
    assert row == {**row, **expected}


def test_a_row_per_cell_in_the_order_asked_for(store):
    names = ["m07_d003_r00", "m02_d003_r01", "m02_d003_r00"]
    for name, num_layers, draw in zip(names, (7, 2, 2), (0, 1, 0), strict=True):
        result = handmade.cell(num_layers, draw=draw)
        assert result.name == name
        store.save(result, ARRAYS)
    store.write_tables([names[0], "m13_d003_r00", names[2]])  # one is not finished, one not asked
    rows = read(store.workdir / "results.csv")
    assert [(row["num_layers"], row["draw"]) for row in rows] == [("7", "0"), ("2", "0")]


def test_a_row_per_cell_and_attacker(store):
    for draw in range(2):
        store.save(handmade.cell(draw=draw), ARRAYS)
    store.write_tables(["m02_d003_r00", "m02_d003_r01"])
    rows = read(store.workdir / "attacks.csv")
    assert [(row["draw"], row["attacker"], row["psnr_db_mean"]) for row in rows] == [
        ("0", "linear", "12.0"),
        ("0", "residual", "20.0"),
        ("1", "linear", "12.0"),
        ("1", "residual", "20.0"),
    ]
    assert rows == store.read_csv("attacks.csv")
    # The columns that identify a cell are spelled alike, so that the tables can be joined.
    assert list(rows[0])[:5] == list(store.read_csv("results.csv")[0])[:5]


def test_no_rows_make_no_table(store):
    assert store.write_tables(["m02_d003_r00"]) == []
    assert not list(store.workdir.glob("*.csv"))
    assert_damaged(store.workdir / "results.csv", lambda: store.read_csv("results.csv"))


def test_an_archive_holds_nothing_but_arrays(store):
    store.save(handmade.cell(), ARRAYS)
    with zipfile.ZipFile(store.workdir / "cells" / "m02_d003_r00.npz") as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.npy" for name in ARRAYS)


def test_a_cell_without_its_arrays_is_not_finished(store):
    store.save(handmade.cell(), ARRAYS)
    name = handmade.cell().name
    (store.workdir / "cells" / f"{name}.npz").unlink()
    assert not store.has(name)


def test_what_is_made_of_somebody_s_own_pictures_is_theirs_alone(tmp_path):
    modes = {}
    for dataset in ("folder:pictures", "photo_patches"):
        store = ResultStore.open(tmp_path / dataset.partition(":")[0], {"dataset": dataset})
        modes[dataset] = stat.S_IMODE(store.workdir.stat().st_mode)
    assert modes["folder:pictures"] == 0o700
    assert modes["photo_patches"] & 0o055
