"""Shards prove their own content; rows come back as from an array, wherever they are kept."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from privynet_jax.platform.rows import shards
from privynet_jax.platform.rows.shards import (
    DamagedShardError,
    ShardedRows,
    ShardFolder,
    opener_of_files,
)

SHAPE, ROWS_PER_SHARD = (11, 3, 2, 5), 4
NAMES = ["test-00000.npy", "test-00001.npy", "test-00002.npy"]


def an_array(dtype="float16"):
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


def folder_at(path, identity="features of something"):
    return ShardFolder(epath.Path(path), identity)


def write(folder, array):
    cuts = range(0, len(array), ROWS_PER_SHARD)
    pieces = [array[start : start + ROWS_PER_SHARD] for start in cuts]
    return [folder.write(name, piece) for name, piece in zip(NAMES, pieces, strict=True)]


@pytest.fixture(params=["on disk", "held"])
def rows(request, tmp_path):
    found = ShardedRows(write(folder_at(tmp_path), an_array()), ROWS_PER_SHARD, SHAPE, "float16")
    if request.param == "held":
        found.hold()
        for name in NAMES:
            (tmp_path / name).unlink()
    return found


# Within a shard, over borders, backwards, twice, none, and runs that end at a border.
CHOICES = [
    *([0], [10], [-1, -11], [3, 4], [0, 1, 2, 3, 4, 5], [10, 3, 3, 0], []),
    *(slice(None), slice(2, 9), slice(4, 8), slice(9, 2, -3), slice(5, 5), slice(-3, None)),
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_rows_are_those_of_the_array(rows, choice):
    expected = an_array()[choice if isinstance(choice, slice) else np.array(choice, int)]
    found = rows[choice]
    assert (found.shape, found.dtype) == (expected.shape, np.float16)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block_bytes", [1, 200, 2**18])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_chosen_channels_of_chosen_rows_come_in_blocks(rows, choice, block_bytes, monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK_BYTES", block_bytes)
    positions = np.array([4, 0, 4])
    selected = an_array()[choice if isinstance(choice, slice) else np.array(choice, int)]
    expected = selected[..., positions]
    found = np.full(expected.shape, -1, np.float16)
    for where, values in rows.select(choice, positions):
        found[where] = values
    np.testing.assert_array_equal(found, expected)


def test_it_answers_like_an_array(rows):
    assert (rows.shape, rows.dtype, len(rows)) == (SHAPE, np.float16, 11)
    assert (rows.row_bytes, rows.nbytes) == (60, 660)
    np.testing.assert_array_equal(np.float32(rows), an_array("float32"))
    fresh = rows[2:4]
    fresh[:] = 0  # the reader's own, not the cache's
    np.testing.assert_array_equal(rows[2:4], an_array()[2:4])


@pytest.mark.parametrize("choice", [[11], [-12], [0, 99]])
def test_rows_beyond_the_end_are_refused(rows, choice):
    with pytest.raises(IndexError, match="below 11"):
        rows[np.array(choice)]


@pytest.mark.parametrize("choice", [2.0, np.array([0.5]), np.ones(11, bool)])
def test_other_ways_of_choosing_are_refused(rows, choice):
    with pytest.raises(TypeError, match="a slice or integers"):
        rows[choice]


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_a_shard_is_found_again_and_is_also_a_numpy_file(tmp_path, dtype):
    array = an_array(dtype)
    written = folder_at(tmp_path).write(NAMES[0], array)
    assert folder_at(tmp_path).find(NAMES[0], SHAPE, dtype) == written
    np.testing.assert_array_equal(np.load(written.path), array)
    content = Path(written.path).read_bytes()
    # The recipe in the module's own words: whose, which name, all bytes.
    prefix = b"features of something\ntest-00000.npy\n"
    assert content[-32:] == hashlib.sha256(prefix + content[:-32]).digest()
    assert os.listdir(tmp_path) == [NAMES[0]]


def test_a_missing_shard_is_none(tmp_path):
    assert folder_at(tmp_path / "new" / "folder").find(NAMES[0], SHAPE, "float16") is None


def change_at(place):
    def change(path):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return change


def replace_by(content):
    return lambda path: path.write_bytes(content(path.read_bytes()))


DAMAGES = {
    "a bit of the header": (change_at(20), "does not begin with the expected header"),
    "a bit of the data": (change_at(200), "does not match its checksum"),
    "a bit of the digest": (change_at(-1), "does not match its checksum"),
    "the last byte": (replace_by(lambda x: x[:-1]), r"ends after 819 of 820 bytes"),
    "half": (replace_by(lambda x: x[: len(x) // 2]), r"ends after 410 of 820 bytes"),
    "all": (replace_by(lambda x: b""), r"ends after 0 of 820 bytes"),
    "a byte too many": (replace_by(lambda x: x + b"\0"), "does not match its checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_noticed_and_writing_again_heals_it(tmp_path, name):
    damage, complaint = DAMAGES[name]
    folder = folder_at(tmp_path)
    path = Path(folder.write(NAMES[0], an_array()).path)
    sound = path.read_bytes()
    damage(path)
    with pytest.raises(DamagedShardError, match=complaint):
        folder.find(NAMES[0], SHAPE, "float16")
    folder.write(NAMES[0], an_array())
    assert path.read_bytes() == sound


def test_a_sound_shard_of_elsewhere_passes_for_none(tmp_path):
    array = an_array()
    first, second = write(folder_at(tmp_path / "here"), array)[:2]
    os.replace(first.path, second.path)  # another name
    with pytest.raises(DamagedShardError, match="does not match"):
        folder_at(tmp_path / "here").find(NAMES[1], (4, *SHAPE[1:]), "float16")
    folder_at(tmp_path / "here").write(NAMES[0], array)
    with pytest.raises(DamagedShardError, match="does not match"):  # another array
        folder_at(tmp_path / "here", "something else").find(NAMES[0], SHAPE, "float16")
    with pytest.raises(DamagedShardError, match="expected header"):  # another type of equal size
        folder_at(tmp_path / "here").find(NAMES[0], SHAPE, "uint16")


def test_a_folder_in_a_shards_place_is_named(tmp_path):
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(DamagedShardError, match=r"cannot be read: .*directory"):
        folder_at(tmp_path).find(NAMES[0], SHAPE, "float16")


def test_a_file_cut_off_in_use_is_an_error(tmp_path):
    [shard] = [folder_at(tmp_path).write(NAMES[0], an_array())]
    rows = ShardedRows([shard], 11, SHAPE, "float16")
    rows[[0]]
    os.truncate(shard.path, 300)
    with pytest.raises(OSError, match="cut off while it was in use"):
        rows[[10]]


def test_few_files_are_open_at_once_and_none_in_the_end(tmp_path, monkeypatch):
    def open_files():
        return sum(str(tmp_path) in os.path.realpath(f"/proc/self/fd/{n}") for n in descriptors())

    def descriptors():
        return os.listdir("/proc/self/fd")

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not show which files a process has open")
    monkeypatch.setattr(shards, "_MOST_OPEN_FILES", 2)
    opener = opener_of_files()
    written = write(folder_at(tmp_path), an_array())
    arrays = [ShardedRows(written, ROWS_PER_SHARD, SHAPE, "float16", opener) for _ in range(3)]
    for array in arrays:
        np.testing.assert_array_equal(array[:], an_array())
        assert open_files() == 2
    del opener, arrays, array
    assert open_files() == 0


def test_a_process_that_ends_with_open_files_ends_quietly(tmp_path):
    write(folder_at(tmp_path), an_array())
    program = (
        "import numpy as np\n"
        "from privynet_jax.platform.rows.shards import Shard, ShardedRows\n"
        f"shards = [Shard({str(tmp_path / NAMES[0])!r}, 128)]\n"
        "rows = ShardedRows(shards, 4, (4, 3, 2, 5), 'float16')\n"
        "print(rows[[0]].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(1, 3, 2, 5)\n", "")


def test_a_system_that_cannot_read_so_is_told_at_import():
    program = "import os; del os.preadv; import privynet_jax"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("on Windows, run it in WSL 2")


def test_threads_read_through_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_OPEN_FILES", 1)  # every other read closes somebody's file
    rows = ShardedRows(write(folder_at(tmp_path), an_array()), ROWS_PER_SHARD, SHAPE, "float16")
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            chosen = rng.integers(0, 11, 6)
            if not np.array_equal(rows[chosen], an_array()[chosen]):
                wrong.append(chosen)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bucket_needs_a_scratch_folder(bucket):
    with pytest.raises(ValueError, match="needs a scratch folder"):
        ShardFolder(bucket, "x").write(NAMES[0], an_array())


def test_shards_of_a_bucket_are_verified_while_they_are_copied(bucket, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    written = ShardFolder(bucket, "x", tmp_path / "first").write(NAMES[0], an_array())
    assert Path(written.path).parent == tmp_path / "first"
    other = ShardFolder(bucket, "x", tmp_path / "second")
    found = other.find(NAMES[0], SHAPE, "float16")
    assert Path(found.path).parent == tmp_path / "second"
    np.testing.assert_array_equal(ShardedRows([found], 11, SHAPE, "float16")[:], an_array())
    assert other.find(NAMES[1], SHAPE, "float16") is None
    content = bytearray((bucket / NAMES[0]).read_bytes())
    content[-40] ^= 1
    (bucket / NAMES[0]).write_bytes(bytes(content))
    with pytest.raises(DamagedShardError, match="does not match"):
        other.find(NAMES[0], SHAPE, "float16")


def test_a_full_scratch_folder_is_not_a_damaged_shard(bucket, tmp_path, monkeypatch):
    folder = ShardFolder(bucket, "x", tmp_path)
    folder.write(NAMES[0], an_array())

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "verify_shard", refuse)
    with pytest.raises(OSError, match="No space left"):
        folder.find(NAMES[0], SHAPE, "float16")
