"""What is kept comes back bit by bit, or not at all."""

import numpy as np
import pytest

from privynet_jax.training.checkpoints import Checkpoints, GroupCheckpoint, TrainingProgress


def progress_of(seed=0, finished=("cloud",)):
    rng = np.random.default_rng(seed)
    leaves = [
        rng.normal(size=(2, 3, 4)).astype(np.float32),
        np.arange(2, dtype=np.int32),
        *[np.full((2,), index, np.float32) for index in range(12)],  # more than nine keep order
    ]
    done = {name: [leaf + 1 for leaf in leaves] for name in finished}
    return TrainingProgress(done, "residual", 7, leaves)


def assert_same(one, other):
    assert (one.task, one.step, set(one.finished)) == (other.task, other.step, set(other.finished))
    mine, theirs = one.arrays(), other.arrays()
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name])


@pytest.mark.parametrize("finished", [(), ("cloud",), ("cloud", "residual")])
def test_progress_comes_back_in_another_process_as_it_was(tmp_path, finished):
    saved = progress_of(finished=finished)
    GroupCheckpoint(tmp_path / "group", 0).save(saved, wait=True)
    assert_same(GroupCheckpoint(tmp_path / "group", 0).restore(), saved)


def test_between_two_networks_there_is_no_state(tmp_path):
    saved = TrainingProgress(progress_of().finished)
    GroupCheckpoint(tmp_path / "group", 0).save(saved, wait=True)
    assert_same(GroupCheckpoint(tmp_path / "group", 0).restore(), saved)


def test_the_newest_of_several_is_kept(tmp_path):
    kept = GroupCheckpoint(tmp_path / "group", 0)
    for seed in range(3):
        kept.save(progress_of(seed), wait=seed == 2)
    assert_same(GroupCheckpoint(tmp_path / "group", 0).restore(), progress_of(2))
    assert len(list((tmp_path / "group").iterdir())) == 1


def test_nothing_is_there_at_first_and_after_discarding(tmp_path):
    kept = GroupCheckpoint(tmp_path / "group", 0)
    assert kept.restore() is None
    assert not (tmp_path / "group").exists()
    kept.save(progress_of())
    kept.discard()
    assert not (tmp_path / "group").exists()
    assert kept.restore() is None


def damaged_by(change):
    def damage(folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.stat().st_size)[-3:]:
            path.write_bytes(change(path.read_bytes()))

    return damage


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
    GroupCheckpoint(tmp_path / "group", 0).save(progress_of(), wait=True)
    damaged_by(change)(tmp_path / "group")
    assert GroupCheckpoint(tmp_path / "group", 0).restore() is None
    assert "trained from the beginning" in caplog.text
    assert not (tmp_path / "group").exists()


def test_an_unfinished_checkpoint_is_none(tmp_path):
    GroupCheckpoint(tmp_path / "group", 0).save(progress_of(), wait=True)
    (tmp_path / "group" / "1").rename(tmp_path / "group" / "1.orbax-checkpoint-tmp")
    assert GroupCheckpoint(tmp_path / "group", 0).restore() is None


def test_arrays_that_were_exchanged_are_noticed(tmp_path, caplog):
    for name in ("one", "other"):
        GroupCheckpoint(tmp_path / name, 0).save(progress_of(len(name)), wait=True)
    arrays = [tmp_path / name / "1" / "arrays" for name in ("one", "other")]
    arrays[0].rename(tmp_path / "away")
    arrays[1].rename(arrays[0])
    assert GroupCheckpoint(tmp_path / "one", 0).restore() is None
    assert "not those that were saved" in caplog.text


def test_due_at_the_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept = GroupCheckpoint(tmp_path / "group", every_seconds=60)
    assert not kept.is_due()
    now[0] += 60
    assert kept.is_due()


def test_groups_of_other_cells_are_kept_elsewhere(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0)
    first = checkpoints.of_group(["m02_d008_r00", "m02_d008_r01"])
    first.save(progress_of(), wait=True)
    for others in (["m02_d008_r00"], ["m02_d008_r01", "m02_d008_r00"]):
        assert checkpoints.of_group(others).restore() is None
    assert checkpoints.of_group(["m02_d008_r00", "m02_d008_r01"]).restore() is not None
