"""What is kept comes back bit by bit, or not at all."""

import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.training.checkpoints import Checkpoint, load_tree, save_tree


def sections_of(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "state/00000": np.float32(rng.normal(size=(2, 3, 4))),
        "step": np.asarray(7 + seed),
        "stopped": np.asarray(False),
        "losses": np.zeros(0, np.float32),  # nothing, of a shape and a type
        "history": np.zeros((0, 3)),
    }
    return {"0001-cloud": arrays, "0002-white box": {"best/0": np.arange(12, dtype=np.int32)}}


def saved(folder, sections):
    kept = Checkpoint(folder, 0)
    kept.sections.update(sections)
    kept.save(wait=True)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for section, arrays in one.items():
        assert arrays.keys() == other[section].keys()
        for name, array in arrays.items():
            assert array.dtype == other[section][name].dtype
            np.testing.assert_array_equal(array, other[section][name])


def test_all_sections_come_back_as_they_were(tmp_path):
    made = []
    sections = sections_of()
    lazy = {"0003-later": lambda: made.append(1) or sections["0002-white box"]}
    saved(tmp_path / "kept", sections | lazy)
    assert made == [1]  # when it was written
    again = Checkpoint(tmp_path / "kept", 0)
    assert_same(again.sections, {**sections, "0003-later": sections["0002-white box"]})
    assert again.arrays("0002-white box").keys() == {"best/0"}
    assert again.arrays("0004-cloud") is None
    saved(tmp_path / "empty", {"0001-cloud": dict})  # before its first state
    assert Checkpoint(tmp_path / "empty", 0).sections == {}


def test_the_newest_of_several_is_kept(tmp_path):
    kept = Checkpoint(tmp_path / "kept", 0)
    for seed in range(3):
        kept.sections = dict(sections_of(seed))
        kept.save(wait=seed == 2)
    assert_same(Checkpoint(tmp_path / "kept", 0).sections, sections_of(2))
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_nothing_is_there_at_first_and_after_discarding(tmp_path):
    kept = Checkpoint(tmp_path / "kept", 0)
    assert kept.sections == {}
    assert not (tmp_path / "kept").exists()
    kept.sections.update(sections_of())
    kept.save()
    kept.discard()
    assert not (tmp_path / "kept").exists()
    assert Checkpoint(tmp_path / "kept", 0).sections == {}


def test_trainings_are_numbered_in_their_order(tmp_path):
    kept = Checkpoint(tmp_path / "kept", 0)
    names = [kept.next_section(name) for name in ("cloud", "strong", "strong")]
    assert names == ["0001-cloud", "0002-strong", "0003-strong"]
    assert Checkpoint(tmp_path / "kept", 0).next_section("cloud") == names[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    ],
    ids=["empty", "cut", "flipped"],
)
def test_damage_is_told_and_costs_no_more_than_the_training(tmp_path, caplog, change):
    folder = tmp_path / "kept"
    saved(folder, sections_of())
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_size)[-3:]:
        path.write_bytes(change(path.read_bytes()))
    assert Checkpoint(folder, 0).sections == {}
    assert "its networks are trained anew" in caplog.text
    assert not folder.exists()


def test_an_unfinished_checkpoint_is_none(tmp_path):
    saved(tmp_path / "kept", sections_of())
    (tmp_path / "kept" / "1").rename(tmp_path / "kept" / "1.orbax-checkpoint-tmp")
    assert Checkpoint(tmp_path / "kept", 0).sections == {}


def test_arrays_that_were_exchanged_are_noticed(tmp_path, caplog):
    for seed, name in enumerate(("one", "other")):
        saved(tmp_path / name, sections_of(seed))
    arrays = [tmp_path / name / "1" / "arrays" for name in ("one", "other")]
    arrays[0].rename(tmp_path / "away")
    arrays[1].rename(arrays[0])
    assert Checkpoint(tmp_path / "one", 0).sections == {}
    assert "not those that were saved" in caplog.text


def test_due_at_the_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept = Checkpoint(tmp_path / "kept", every_seconds=60)
    assert not kept.is_due()
    now[0] += 60
    assert kept.is_due()
    kept.save(wait=True)
    assert not kept.is_due()


def test_a_tree_comes_back_and_the_first_one_stays(tmp_path):
    tree = {"a": {"w": np.arange(6.0).reshape(2, 3)}, "b": np.float16([1, 2])}
    save_tree(tmp_path / "deep" / "network", tree)
    save_tree(tmp_path / "deep" / "network", {"other": np.zeros(1)})  # another was faster
    found = load_tree(tmp_path / "deep" / "network", "a network")
    assert found["b"].dtype == np.float16
    np.testing.assert_array_equal(found["a"]["w"], tree["a"]["w"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["network"]
    for path in (tmp_path / "deep" / "network").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="a network"):
        load_tree(tmp_path / "deep" / "network", "a network")
