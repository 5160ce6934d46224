"""Package and pictures to a release: values, order, skipping, and going on after a kill."""

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_dataset
from support.handmade_package import CLASSES, contents, fill, handmade_package, noise

from privynet_jax.deployment.release import extract_release, release_journal, release_manifest
from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_folder import ReleaseWriter, open_release
from privynet_jax.deployment.release.release_inputs import find_pictures, release_secrets
from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decode_picture
from privynet_jax.images.parts import as_float

COUNTS = {"bird": 5, "cat": 9, "dog": 8}
ROWS = sum(COUNTS.values())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """22 rows are 5 shards, the last of 2; a full shard is 2 batches, the second one filled up."""
    monkeypatch.setattr(release_manifest, "_MOST_ROWS", 5)
    monkeypatch.setattr(extract_release, "_MOST_IMAGES", 3)


@pytest.fixture(scope="module")
def package():
    return handmade_package()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    fill(folder, COUNTS)
    return folder


def find(folder, labelled=True, **options):
    return find_pictures(f"folder:{folder}", class_names=CLASSES, labelled=labelled, **options)


def write(package, folder, out, labelled=True, **options):
    return write_release(out, package, find(folder, labelled), **options)


def pixels_by_row(order_csv, folder):
    """The pictures of a release, decoded independently, in the order of its rows."""
    with open(order_csv, newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(line["row"]) for line in table] == list(range(len(table)))
    paths = [line["picture"] for line in table]
    return np.stack([np.asarray(Image.open(folder / path)) for path in paths]), paths


# What a release holds.


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_rows_are_normalised_representations_of_their_pictures(tmp_path, photos, package, dtype):
    order = tmp_path / "order.csv"
    written = write(package, photos, tmp_path / "out", dtype=dtype, order_out=order)
    assert (written.rows, written.skipped, written.shards_kept) == (ROWS, 0, 0)
    release = open_release(tmp_path / "out")
    pixels, paths = pixels_by_row(order, photos)
    assert sorted(paths) == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png")
    )
    expected = np.asarray(package.local(as_float(pixels))) * package.scales
    # Other batches sum up in another order: a few units in the last place of float32. float16
    # keeps 11 bits; bytes are half a step of log(1 + x) off, at most, and read as float16.
    step = np.log1p(package.peaks) / 254 / 2 * (1 + expected) * 1.01
    tolerance = 1e-5 + {"float32": 0, "float16": 2**-11, "uint8": 2**-10}[dtype] * expected
    error = np.abs(np.float32(release.representations[:]) - expected)
    assert (error <= tolerance + (step if dtype == "uint8" else 0)).all()
    assert expected.std() > 0.1
    assert [CLASSES[label] for label in release.labels] == [
        Path(path).parent.name for path in paths
    ]
    assert release.num_classes == 3


def test_labels_are_numbered_as_in_the_package(tmp_path, package):
    fill(tmp_path / "two", {"dog": 4, "bird": 5})  # a folder of two classes, of which dog is 2
    write(package, tmp_path / "two", tmp_path / "out")
    release = open_release(tmp_path / "out")
    assert np.bincount(release.labels).tolist() == [5, 0, 4]
    assert release.num_classes == 3


def test_classes_that_the_package_does_not_know_are_named(tmp_path, package):
    fill(tmp_path / "zoo", {"dog": 4, "emu": 4, "yak": 4})
    with pytest.raises(UserError, match="does not know: emu, yak; allowed are bird, cat, dog"):
        write(package, tmp_path / "zoo", tmp_path / "out")
    assert os.listdir(tmp_path) == ["zoo"]
    write(package, tmp_path / "zoo", tmp_path / "out", labelled=False)
    assert len(open_release(tmp_path / "out")) == 12


def test_without_labels_folders_may_be_arranged_in_any_way(tmp_path, photos, package):
    (photos / "2024" / "trip").mkdir(parents=True)
    shutil.move(photos / "cat" / "holiday_005.png", photos / "2024" / "trip" / "a.png")
    shutil.move(photos / "cat" / "holiday_006.png", photos / "b.png")
    write(package, photos, tmp_path / "out", labelled=False)
    release = open_release(tmp_path / "out")
    assert (len(release), release.labels, release.num_classes) == (ROWS, None, None)


def test_pictures_of_all_sizes_have_rows_of_one(tmp_path, package):
    folder, order = tmp_path / "photos", tmp_path / "order.csv"
    fill(folder, {"bird": 6})
    grey = np.full((40, 90, 3), 200, np.uint8)
    Image.fromarray(grey).save(folder / "bird" / "wide.png")
    write(package, folder, tmp_path / "out", labelled=False, order_out=order)
    paths = [line.partition(",")[2] for line in order.read_text().splitlines()[1:]]
    row = paths.index("bird/wide.png")
    expected = package.local(np.full((1, 16, 16, 3), 200 / 255, np.float32)) * package.scales
    found = open_release(tmp_path / "out").representations[np.array([row])]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # as above


@pytest.mark.parametrize(("split", "rows"), [("all", 17), ("train", 12), ("test", 5)])
def test_splits_of_a_tfds_data_set(tmp_path, split, rows):
    tiny_dataset.prepare(
        tiny_dataset.tiny_builder("files_only", {"train": 12, "test": 5}), tmp_path
    )
    classes = ("bright", "dark", "grey")
    chosen = {"class_names": classes, "split": split, "data_dir": tmp_path}
    name = "files_only"
    pictures = find_pictures(name, labelled=True, **chosen)
    assert (len(pictures), pictures.folder) == (rows, None)
    for index in range(rows):  # a grey level of 50 * (dark 0, grey 1, bright 2)
        level = int(decode_picture(pictures.read(index), 4)[0, 0, 0])
        assert classes[pictures.labels[index]] == {0: "dark", 50: "grey", 100: "bright"}[level]
    unlabelled = find_pictures(name, labelled=False, **chosen)
    assert (len(unlabelled), unlabelled.labels) == (rows, None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_of_folders(tmp_path, split):
    for name, count in (("train", 4), ("test", 2)):
        fill(tmp_path / name, {"cat": count, "dog": count})
    pictures = find(tmp_path, split=split)
    assert {Path(pictures.name(i)).parents[1].name for i in range(len(pictures))} == {split}
    assert len(find(tmp_path)) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "has no test split; give --split=all"),
        ({"split": "valid"}, "split is 'valid'; allowed are all, train, test"),
        ({"split": "train", "labelled": False}, "--split=train needs labels"),
    ],
)
def test_splits_that_are_not_there(photos, options, message):
    with pytest.raises(UserError, match=message):
        find(photos, **options)


def test_empty_and_missing_folders(tmp_path, package):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no pictures"), ("missing", "is no folder")):
        with pytest.raises(UserError, match=message):
            write(package, tmp_path / name, tmp_path / "out", labelled=False)
    with pytest.raises(UserError, match="one subfolder per class is expected"):
        write(package, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gain", "dtype"), [(np.nan, "float32"), (1e6, "float16")])
def test_values_that_cannot_be_stored_are_refused(tmp_path, photos, gain, dtype):
    with pytest.raises(UserError, match=f"that {dtype} cannot hold on these pictures"):
        write(handmade_package(gain=gain), photos, tmp_path / "out", dtype=dtype)
    with pytest.raises(UserError, match="is no release"):
        open_release(tmp_path / "out")


def test_one_compilation_serves(tmp_path, photos):
    package = handmade_package(depth=3)
    before = package.local._cache_size()
    write(package, photos, tmp_path / "out")
    assert package.local._cache_size() == before + 1


def test_a_disk_that_is_too_small(tmp_path, photos, package, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 999))
    with pytest.raises(UserError, match=r"needs 0 MiB more .* 0 MiB free; free some"):
        write(package, photos, tmp_path / "out")


# The order.


def test_the_order_is_a_permutation_that_seed_pictures_and_settings_decide(tmp_path, photos):
    seed, other_seed = "ab" * 32, "ab" * 31 + "aa"
    pictures = find(photos)
    first = release_secrets(pictures, seed, {"dtype": "float32"})
    assert sorted(first.order) == list(range(ROWS))
    again = release_secrets(find(photos), seed, {"dtype": "float32"})
    np.testing.assert_array_equal(first.order, again.order)
    assert first.id == again.id
    other_folder = tmp_path / "other"
    fill(other_folder, {"bird": 5, "cat": 9, "dog": 8}, size=17)
    others = [
        release_secrets(pictures, other_seed, {"dtype": "float32"}),
        release_secrets(pictures, seed, {"dtype": "uint8"}),
        release_secrets(find(other_folder), seed, {"dtype": "float32"}),
        release_secrets(find(photos, labelled=False), seed, {"dtype": "float32"}),
    ]
    orders = [np.arange(ROWS), *(secrets.order for secrets in [first, *others])]
    for index, order in enumerate(orders):
        for another in orders[:index]:
            # Of 22 places one in a random permutation agrees, on average.
            assert (order == another).sum() < ROWS / 2
    assert len({secrets.id for secrets in [first, *others]}) == 5


def test_every_place_is_equally_likely_for_every_picture(photos):
    pictures, orders = find(photos), 400
    picture_at_0 = [
        release_secrets(pictures, f"{seed:064x}", {}).order[0] for seed in range(orders)
    ]
    expected = orders / ROWS
    chi2 = ((np.bincount(picture_at_0, minlength=ROWS) - expected) ** 2 / expected).sum()
    assert chi2 < 49.0  # 21 degrees of freedom: exceeded by chance with probability 0.0005


def test_the_order_of_rows_is_what_order_out_says_and_stays_private(tmp_path, photos, package):
    order = tmp_path / "order.csv"
    write(package, photos, tmp_path / "out", order_out=order)
    assert stat.S_IMODE(order.stat().st_mode) == 0o600
    _, paths = pixels_by_row(order, photos)
    assert sorted(paths) != paths
    order.unlink()
    # Of a release that is complete it can be had later.
    assert write(package, photos, tmp_path / "out", order_out=order).shards_kept == 5
    assert pixels_by_row(order, photos)[1] == paths


@pytest.mark.parametrize(
    ("out", "order_out", "message"),
    [
        ("out", "out/order.csv", "would leave the device with it"),
        ("out", "out", "would leave the device with it"),
        ("out", "photos/../link/order.csv", "would leave the device with it"),
        ("out", "photos/order.csv", "would pass for one"),
        ("out", "missing/order.csv", "give one in a folder there is"),
        ("out", "secret", "give one in a folder there is"),
        ("photos", None, "lies in .*photos, which stays here"),
        ("photos/cat/out", None, "lies in .*photos, which stays here"),
        ("secret/out", None, "lies in .*secret, which stays here"),
        ("file", None, "is no folder"),
    ],
)
def test_places_that_do_not_do(tmp_path, photos, package, out, order_out, message):
    (tmp_path / "secret").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        write(
            package,
            photos,
            tmp_path / out,
            order_out=tmp_path / order_out if order_out else None,
            private_folders=[tmp_path / "secret"],
        )
    assert sorted(tmp_path.rglob("*")) == before


# Unreadable pictures.


def spoil(photos, *names):
    for name in names:
        (photos / name).write_bytes(b"no picture, " + name.encode())


def test_an_unreadable_picture_is_named_and_nothing_is_lost(tmp_path, photos, package, caplog):
    spoil(photos, "cat/broken.jpg")
    with pytest.raises(UserError, match=r"cannot use .*broken\.jpg: it is no image") as caught:
        write(package, photos, tmp_path / "out")
    assert "\n" not in str(caught.value)
    finished = contents(tmp_path / "out")
    # By the same command with the flag it goes on.
    order = tmp_path / "order.csv"
    skipping = {"skip_unreadable": True, "order_out": order}
    written = write(package, photos, tmp_path / "out", **skipping)
    assert (written.rows, written.skipped) == (ROWS, 1)
    assert written.shards_kept == len(finished)
    assert "skipped 1 unreadable pictures" in caplog.text
    assert finished.items() <= contents(tmp_path / "out").items()
    pixels, _ = pixels_by_row(order, photos)
    expected = np.asarray(package.local(as_float(pixels))) * package.scales
    found = open_release(tmp_path / "out").representations[:]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Complete; but which was skipped is not known any more.
    assert write(package, photos, tmp_path / "out", skip_unreadable=True).skipped == 1
    with pytest.raises(UserError, match="which pictures it skipped was not kept"):
        write(package, photos, tmp_path / "out", **skipping)


def test_nothing_but_unreadable_pictures(tmp_path, package):
    (tmp_path / "photos").mkdir()
    spoil(tmp_path / "photos", *(f"{index}.jpg" for index in range(8)))
    with pytest.raises(UserError, match="no picture can be read; all 8 were skipped"):
        write(package, tmp_path / "photos", tmp_path / "out", False, skip_unreadable=True)
    assert os.listdir(tmp_path) == ["photos"]


def test_an_end_of_unreadable_pictures_has_no_shard(tmp_path, photos, package, monkeypatch):
    """22 pictures, the last two of the order unreadable: the fifth shard would be empty."""
    spoil(photos, "cat/holiday_005.png", "cat/holiday_006.png")
    pictures, chosen = find(photos), []
    spoilt = [i for i in range(ROWS) if pictures.read(i).startswith(b"no picture")]
    real = extract_release.release_secrets

    def with_order(*args):
        rest = [i for i in range(ROWS) if i not in spoilt]
        chosen.append(real(*args)._replace(order=np.array(rest + spoilt)))
        return chosen[-1]

    monkeypatch.setattr(extract_release, "release_secrets", with_order)
    interrupt(monkeypatch, package, photos, tmp_path / "out", 4, skip_unreadable=True)
    written = write(package, photos, tmp_path / "out", skip_unreadable=True)
    assert (written.rows, written.skipped, written.shards_kept) == (ROWS - 2, 2, 3)
    release = open_release(tmp_path / "out")
    assert len(release) == ROWS - 2
    np.testing.assert_array_equal(release.labels, pictures.labels[chosen[-1].order[:-2]])
    assert "representations-00004.npy" not in os.listdir(tmp_path / "out")


# Going on.


class Killed(BaseException):
    """Instead of a signal, in this process."""


def killed_at(monkeypatch, where, name, time, *, before):
    """Makes the call of a number of a function end everything, before or after its work."""
    real, calls = getattr(where, name), []

    def maybe(*args, **kwargs):
        calls.append(None)
        if before and len(calls) == time:
            raise Killed
        result = real(*args, **kwargs)
        if len(calls) == time:
            raise Killed
        return result

    monkeypatch.setattr(where, name, maybe)


@pytest.mark.parametrize("spoilt", [(), ("cat/a.jpg", "dog/b.jpg", "dog/c.jpg")])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("where", "name", "time"),
    [
        (release_journal.Journal, "save", 1),
        (release_journal.Journal, "save", 4),
        (ReleaseWriter, "write", 1),
        (ReleaseWriter, "write", 3),
        (ReleaseWriter, "finish", 1),
        (extract_release, "_write_order", 1),
    ],
)
def test_killed_and_resumed_is_byte_for_byte_undisturbed(
    tmp_path, photos, package, monkeypatch, where, name, time, before, spoilt
):
    spoil(photos, *spoilt)
    options = {"dtype": "float16", "skip_unreadable": bool(spoilt)}
    write(package, photos, tmp_path / "a", **options, order_out=tmp_path / "a.csv")
    with monkeypatch.context() as patch:
        killed_at(patch, where, name, time, before=before)
        with pytest.raises(Killed):
            write(package, photos, tmp_path / "b", **options, order_out=tmp_path / "b.csv")
    # Complete but for the journal, if that was all that was missing; else refused.
    if (name, before) != ("finish", False):
        with pytest.raises(UserError, match=r"is incomplete|is no release"):
            open_release(tmp_path / "b")
        write(package, photos, tmp_path / "b", **options, order_out=tmp_path / "b.csv")
    else:
        write(package, photos, tmp_path / "b", **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "a.csv", "b", "b.csv", "photos"]
    times = {path.stat().st_mtime_ns for path in [tmp_path / "b", *(tmp_path / "b").iterdir()]}
    assert len(times) == 1


PROGRAM = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)  # as in conftest.py
from support.handmade_package import CLASSES, handmade_package
from privynet_jax.deployment.release import extract_release, release_manifest
from privynet_jax.deployment.release.release_inputs import find_pictures
release_manifest._MOST_ROWS, extract_release._MOST_IMAGES = 5, 3
real, calls = os.replace, []
def replace(source, target):
    calls.append(target)
    if sum(str(target).endswith(".npy") for target in calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = replace
pictures = find_pictures("folder:" + sys.argv[1], class_names=CLASSES, labelled=True)
extract_release.write_release(Path(sys.argv[2]), handmade_package(), pictures)
"""


def test_a_real_kill_leaves_a_temporary_file_that_is_not_released(tmp_path, photos, package):
    write(package, photos, tmp_path / "a")
    command = [sys.executable, "-c", PROGRAM, str(photos), str(tmp_path / "b")]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=os.environ | PATHS, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [partial] = [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]
    assert partial.name.startswith(".representations-00002.npy.")
    with pytest.raises(UserError, match="is incomplete; run extract again"):
        open_release(tmp_path / "b")
    assert write(package, photos, tmp_path / "b").shards_kept == 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


PATHS = {
    "PYTHONPATH": os.pathsep.join(
        map(str, (Path(__file__).parents[3], *Path(__file__).parents[:3]))
    )
}


def interrupt(monkeypatch, package, photos, out, at_shard=4, **options):
    with monkeypatch.context() as patch:
        killed_at(patch, ReleaseWriter, "write", at_shard, before=True)
        with pytest.raises(Killed):
            write(package, photos, out, **options)


def test_finished_shards_are_not_computed_again(tmp_path, photos, package, monkeypatch):
    interrupt(monkeypatch, package, photos, tmp_path / "out")
    stamps = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    decoded, real = [], extract_release.decode_or_skip
    monkeypatch.setattr(
        extract_release, "decode_or_skip", lambda *args: decoded.append(args) or real(*args)
    )
    assert write(package, photos, tmp_path / "out").shards_kept == 3
    assert len(decoded) == ROWS - 3 * 5
    assert stamps == {path: path.stat().st_ino for path in stamps}


def test_a_finished_shard_that_is_damaged_is_computed_again(tmp_path, photos, package, monkeypatch):
    spoil(photos, "cat/a.jpg", "dog/b.jpg")
    write(package, photos, tmp_path / "a", skip_unreadable=True)
    interrupt(monkeypatch, package, photos, tmp_path / "b", skip_unreadable=True)
    path = tmp_path / "b" / "representations-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert write(package, photos, tmp_path / "b", skip_unreadable=True).shards_kept == 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_complete_release_that_is_damaged_is_extracted_again(tmp_path, photos, package, caplog):
    write(package, photos, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "labels.npy").unlink()
    write(package, photos, tmp_path / "out")
    assert "labels.npy is missing; it is extracted again" in caplog.text
    assert contents(tmp_path / "out") == before


def test_the_journal_is_private_hidden_and_outside(tmp_path, photos, package, monkeypatch):
    spoil(photos, "cat/a.jpg", "dog/b.jpg")
    interrupt(monkeypatch, package, photos, tmp_path / "out", 5, skip_unreadable=True)
    journal = tmp_path / ".out.extracting"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    content = json.loads(journal.read_text())
    assert sorted(content) == ["id", "shards", "version"]
    assert sum(len(skipped) for _, skipped in content["shards"]) in (1, 2)
    assert all(name.startswith("representations-") for name in os.listdir(tmp_path / "out"))


def test_skipped_pictures_are_named_once_they_may_not_be_skipped(
    tmp_path, photos, package, monkeypatch
):
    spoil(photos, "cat/a.jpg")
    interrupt(monkeypatch, package, photos, tmp_path / "out", 5, skip_unreadable=True)
    with pytest.raises(UserError, match=r"cannot use .*a\.jpg"):
        write(package, photos, tmp_path / "out")
    assert write(package, photos, tmp_path / "out", skip_unreadable=True).rows == ROWS


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("change", ["picture", "dtype", "labels", "seed", "scales"])
def test_another_release_is_never_continued_or_replaced(
    tmp_path, photos, package, monkeypatch, complete, change
):
    if complete:
        write(package, photos, tmp_path / "out")
    else:
        interrupt(monkeypatch, package, photos, tmp_path / "out")
    before = contents(tmp_path / "out")
    options, labelled = {}, True
    if change == "picture":
        Image.fromarray(noise(5)).save(photos / "cat" / "holiday_005.png")
    elif change == "labels":
        labelled = False
    elif change == "dtype":
        options["dtype"] = "uint8"
    elif change == "seed":
        package = handmade_package(seed="cd" * 32)
    else:
        package = handmade_package()
        package.scales[0] *= 2
    with pytest.raises(UserError, match="release of other pictures, another package or other"):
        write(package, photos, tmp_path / "out", labelled, **options)
    assert contents(tmp_path / "out") == before


def test_a_folder_with_something_else_in_it(tmp_path, photos, package):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which is no part of a release"):
        write(package, photos, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


def test_a_damaged_journal_explains_nothing(tmp_path, photos, package, monkeypatch):
    interrupt(monkeypatch, package, photos, tmp_path / "out")
    (tmp_path / ".out.extracting").write_text("{")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="delete the folder"):
        write(package, photos, tmp_path / "out")
    assert contents(tmp_path / "out") == before
