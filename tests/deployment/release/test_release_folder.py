"""The format of a release: what is written is read back; all that is wrong is one clear line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from support.small_release import class_ids

import privynet_jax
from privynet_jax.deployment.release import release_manifest
from privynet_jax.deployment.release.release_files import files_at
from privynet_jax.deployment.release.release_folder import ReleaseWriter, open_release
from privynet_jax.deployment.release.release_manifest import read_manifest, rows_per_shard
from privynet_jax.errors import UserError
from privynet_jax.platform.rows.coding import Coding
from privynet_jax.platform.rows.shards import ShardFolder

SHAPE, ROWS, CLASSES = (2, 3, 5), 11, class_ids(4)
ID, OTHER_ID, PLAN_ID = "0123456789abcdef" * 4, "f" * 64, "1d" * 32
PEAKS = np.float32([16, 20, 24, 28, 32])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(release_manifest, "_MOST_ROWS", 4)


def normalised():
    """float32, post-ReLU: half of them zero, the largest below every peak."""
    values = np.random.default_rng(0).exponential(2, (ROWS, *SHAPE)) - 1
    return np.float32(np.clip(values, 0, 15))


def stored(dtype):
    coding = Coding(dtype, np.ones(SHAPE[-1], np.float32), PEAKS)
    return np.asarray(jax.jit(coding.encode)(normalised()))


def some_labels():
    return np.arange(ROWS, dtype=np.int32) % len(CLASSES)


def write(folder, dtype="float16", identity=ID, labels="some", classes=CLASSES):
    labels = some_labels() if isinstance(labels, str) else labels
    writer, rows = ReleaseWriter(folder, identity, PLAN_ID, SHAPE, dtype), stored(dtype)
    for index, start in enumerate(range(0, ROWS, writer.rows_per_shard)):
        writer.write(index, rows[start : start + writer.rows_per_shard])
    writer.finish(ROWS, labels, None if labels is None else classes, PEAKS)
    return folder


def assert_refused(folder, *expected):
    with pytest.raises(UserError) as caught:
        open_release(folder)
    assert "\n" not in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


def ends_of(folder):
    """What the files of a release end in, by name."""
    return {path.name: path.read_bytes()[-32:].hex() for path in folder.glob("*.npy")}


def edit(folder, *, resign, **changes):
    """Changes fields of release.json; None of them takes the field away."""
    path = folder / "release.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    content |= changes
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "sha256": digest if resign else "0" * 64}))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_what_is_written_is_read(tmp_path, dtype, held):
    release = open_release(write(tmp_path / "r", dtype), held_bytes=2**30 if held else 0)
    x = release.representations
    assert (release.id, release.plan_id, release.dtype) == (ID, PLAN_ID, dtype)
    assert release.classes == CLASSES
    assert (len(release), len(x), x.shape) == (ROWS, ROWS, (ROWS, *SHAPE))
    assert x.dtype == (np.float32 if dtype == "float32" else np.float16)
    np.testing.assert_array_equal(release.labels, some_labels())
    assert release.labels.dtype == np.int32
    # Of log(1 + x) half a step, log(1 + peak) / 254 / 2, then rounding to float16.
    steps = np.log1p(PEAKS) / 254 / 2 * (1 + normalised())
    atol = {"float32": 0, "float16": 0, "uint8": steps + 1e-6}[dtype]
    rtol = {"float32": 0, "float16": 2**-11, "uint8": 2**-10}[dtype]
    error = np.abs(np.float32(x[:]) - normalised())
    assert (error <= atol + rtol * normalised() + 1e-7 * (dtype != "float32")).all()
    assert (np.float32(x[:])[normalised() == 0] == 0).all()
    chosen = np.array([10, 0, 4, 3, 3])
    np.testing.assert_array_equal(x[chosen], x[:][chosen])
    np.testing.assert_array_equal(x[3:9], x[:][3:9])


def test_rows_are_read_on_demand(tmp_path):
    release = open_release(write(tmp_path / "r", "float32"), held_bytes=0)
    (tmp_path / "r" / "representations-00002.npy").unlink()
    np.testing.assert_array_equal(release.representations[0:8], normalised()[:8])
    with pytest.raises(FileNotFoundError):
        release.representations[np.array([10])]


def test_the_files_of_a_release(tmp_path):
    folder = write(tmp_path / "r")
    shards = [f"representations-0000{index}.npy" for index in range(3)]
    assert sorted(os.listdir(folder)) == ["labels.npy", "release.json", *shards]
    # Ordinary NumPy files, for those who want no library to read them.
    np.testing.assert_array_equal(np.load(folder / shards[2]), stored("float16")[8:])
    content = json.loads((folder / "release.json").read_text())
    assert content.pop("sha256")
    assert content == {
        "version": 4,
        "id": ID,
        "plan_id": PLAN_ID,
        "rows": ROWS,
        "shape": list(SHAPE),
        "dtype": "float16",
        "classes": list(CLASSES),
        "rows_per_shard": 4,
        "peaks": None,
        "digests": ends_of(folder),
        "several": False,
    }


def test_peaks_are_told_with_bytes_alone(tmp_path):
    for dtype, peaks in {"uint8": tuple(PEAKS.tolist()), "float32": None}.items():
        assert read_manifest(files_at(write(tmp_path / dtype, dtype))).peaks == peaks


def test_file_times_are_one_constant(tmp_path):
    folder = write(tmp_path / "r")
    times = {path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    assert times == {315_532_800 * 10**9}


def test_a_release_without_labels(tmp_path):
    release = open_release(write(tmp_path / "r", labels=None))
    assert (release.labels, release.classes) == (None, None)
    assert not (tmp_path / "r" / "labels.npy").exists()


def test_what_earlier_attempts_left_is_removed(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / ".representations-00001.npy.laptop.77.0a0b0c0d.xyz").write_bytes(b"half")
    (folder / ".release.json-xyz").write_bytes(b"half")
    (folder / "representations-00007.npy").write_bytes(b"of more pictures")
    (folder / "labels.npy").write_bytes(b"of a labelled attempt")
    write(folder, labels=None)
    shards = [f"representations-0000{index}.npy" for index in range(3)]
    assert sorted(os.listdir(folder)) == ["release.json", *shards]


def test_a_foreign_file_is_neither_released_nor_removed(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which is no part of a release"):
        write(tmp_path / "r")
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"
    assert_refused(tmp_path / "r", "is incomplete")


# What is wrong with a folder.


def test_no_folder_an_empty_one_and_one_of_something_else(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "plan.json").write_text("{}")
    for name in ("missing", "empty", "others"):
        assert_refused(tmp_path / name, f"{tmp_path / name} is no release; give the folder")
    assert not (tmp_path / "missing").exists()


def test_an_incomplete_release(tmp_path):
    folder = write(tmp_path / "r")
    (folder / "release.json").unlink()
    assert_refused(folder, "is incomplete; run extract again")


@pytest.mark.parametrize("name", ["representations-00001.npy", "labels.npy"])
def test_a_missing_file(tmp_path, name):
    folder = write(tmp_path / "r")
    (folder / name).unlink()
    assert_refused(folder, f"{name} is missing; copy the release again")
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", ["representations-00002.npy", "labels.npy"])
@pytest.mark.parametrize("place", [0, 130, -40, -1])
def test_one_changed_byte(tmp_path, name, place):
    path = write(tmp_path / "r") / name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert_refused(tmp_path / "r", name, "it is damaged, or part of another release")


@pytest.mark.parametrize("change", [lambda x: x[:-5], lambda x: x + b"!", lambda x: b""])
def test_a_shard_of_another_length(tmp_path, change):
    path = write(tmp_path / "r") / "representations-00000.npy"
    path.write_bytes(change(path.read_bytes()))
    assert_refused(tmp_path / "r", path.name, "it is damaged, or part of another release")


def test_a_shard_of_another_release_and_one_in_anothers_place(tmp_path):
    folder, other = write(tmp_path / "r"), write(tmp_path / "other", identity=OTHER_ID)
    names = ["representations-00000.npy", "representations-00001.npy"]
    kept = (folder / names[0]).read_bytes()
    shutil.copy(other / names[0], folder / names[0])
    assert_refused(folder, names[0], "part of another release")
    (folder / names[0]).write_bytes(kept)
    open_release(folder)
    shutil.copy(folder / names[1], folder / names[0])
    assert_refused(folder, names[0], "part of another release")


@pytest.mark.parametrize("wrong", [-1, len(CLASSES)])
def test_labels_out_of_range(tmp_path, wrong):
    folder, labels = write(tmp_path / "r"), some_labels()
    labels[5] = wrong
    ShardFolder(epath.Path(folder), ID).write("labels.npy", labels)
    assert_refused(folder, "labels.npy is not the one that release.json tells of")
    edit(folder, resign=True, digests=ends_of(folder))
    assert_refused(folder, "labels.npy has labels from", f"{wrong}", "has 4 classes, from 0")


# What is wrong with release.json.


def test_an_edited_manifest(tmp_path):
    folder = write(tmp_path / "r")
    edit(folder, resign=False, rows=10)
    assert_refused(folder, "release.json was changed after it was written")


def test_another_version_and_a_damaged_manifest(tmp_path):
    """`test_documents.py` has what is refused of any file like this one."""
    edit(write(tmp_path / "r"), resign=True, version=3)
    assert_refused(tmp_path / "r", "is of version 3 of the format, expected 4")
    (tmp_path / "r" / "release.json").write_text("{")
    assert_refused(tmp_path / "r", "is no description of a release; copy the release again")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "7"}, "$.id"),
        ({"plan_id": ID + "\n"}, "$.plan_id"),
        ({"rows": 0}, "$.rows"),
        ({"rows": 10**30}, "$.rows"),
        ({"rows_per_shard": -4}, "$.rows_per_shard"),
        ({"classes": 4}, "$.classes"),
        ({"classes": ["cat"]}, "$.classes"),
        ({"classes": [*CLASSES[::-1]]}, "not in the order of their ids"),
        ({"classes": [CLASSES[0]] * 4}, "not in the order of their ids"),
        ({"shape": [2, 3]}, "$.shape"),
        ({"shape": [2**19, 2**19, 2**19]}, "values, more than"),
        ({"dtype": "object"}, "'object'"),
        ({"dtype": ["float16"]}, "$.dtype"),
        ({"dtype": "uint8"}, "peaks go with bytes"),
        ({"peaks": [1.0] * 5}, "peaks go with bytes"),
        ({"dtype": "uint8", "peaks": [1.0] * 4}, "one positive number per channel"),
        ({"dtype": "uint8", "peaks": [1.0] * 4 + [-1.0]}, "$.peaks"),
        ({"author": "me"}, "author"),
    ],
    ids=str,
)
def test_a_manifest_that_no_writer_wrote(tmp_path, changes, expected):
    edit(write(tmp_path / "r"), resign=True, **changes)
    assert_refused(tmp_path / "r", "is no description of a release: ", expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows": 2**39, "rows_per_shard": 1}, "digests are not those of its files"),
        ({"rows": 12}, "00002.npy does not begin with"),
        ({"rows": 13}, "digests are not those of its files"),
        ({"digests": {}}, "digests are not those of its files"),
        ({"shape": [3, 2, 5]}, "does not begin with the expected header"),
        ({"dtype": "float32"}, "does not begin with the expected header"),
        ({"id": OTHER_ID}, "does not match its checksum"),
        ({"classes": [*CLASSES[:2]]}, "has 2 classes, from 0"),
        ({"classes": [*class_ids(5)]}, "has 5 classes, from 0, of which each must occur"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_its_shards(tmp_path, changes, expected):
    edit(write(tmp_path / "r"), resign=True, **changes)
    assert_refused(tmp_path / "r", expected)


def test_rows_of_another_shape_or_type_are_not_written(tmp_path):
    writer = ReleaseWriter(tmp_path / "r", ID, PLAN_ID, SHAPE, "float16")
    for rows in (np.zeros((4, 2, 3, 4), np.float16), np.zeros((4, *SHAPE), np.float32)):
        with pytest.raises(ValueError, match="Expected"):
            writer.write(0, rows)


def test_shards_depend_on_the_size_of_a_row(monkeypatch):
    monkeypatch.undo()
    assert rows_per_shard((16, 16, 8), "uint8") == 1024
    # 224 x 224 x 64 float32 values are 12.25 MiB: two of them fit into 32 MiB.
    assert rows_per_shard((224, 224, 64), "float32") == 2
    assert rows_per_shard((2000, 2000, 64), "float32") == 1


def test_the_cloud_needs_neither_images_nor_weights(tmp_path):
    folder = write(tmp_path / "r", "uint8")
    program = (
        "import sys; from pathlib import Path\n"
        "from privynet_jax.deployment.release.release_folder import open_release\n"
        f"print(len(open_release(Path({str(folder)!r}))))\n"
        "packages = ('images', 'backbone', 'planning', 'deployment.device')\n"
        "print([p for p in packages if f'privynet_jax.{p}' in sys.modules])"
    )
    # Without the package's own re-exports, which load everything.
    package = Path(privynet_jax.__file__).parent
    stub = f"import sys, types; m = types.ModuleType('privynet_jax'); m.__path__ = [{str(package)!r}]; sys.modules['privynet_jax'] = m\n"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", stub + program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [str(ROWS), "[]"]
