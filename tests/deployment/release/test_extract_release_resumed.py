"""Extraction that was stopped, or finds something in its place: it goes on, or says why not."""

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
from support.handmade_package import contents, handmade_package, noise
from support.handmade_release import ROWS, find, spoil, write

from privynet_jax.deployment.release import extract_release, release_journal, release_rows
from privynet_jax.deployment.release.release_folder import ReleaseWriter, open_release
from privynet_jax.errors import UserError
from privynet_jax.images import picture_cache

pytestmark = pytest.mark.usefixtures("small_shards")


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
        (ReleaseWriter, "write", 3),  # whose neighbours are saves of the journal
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
    else:
        (tmp_path / "b.csv").unlink()  # which pictures were skipped is still in the journal
    write(package, photos, tmp_path / "b", **options, order_out=tmp_path / "b.csv")
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
from privynet_jax.deployment.release import extract_release, release_manifest, release_rows
from privynet_jax.deployment.release.release_inputs import find_pictures
release_manifest._MOST_ROWS, release_rows._MOST_IMAGES = 5, 3
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
    decoded, real = [], release_rows.decode_or_skip
    monkeypatch.setattr(
        release_rows, "decode_or_skip", lambda *args: decoded.append(args) or real(*args)
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
    spoil(photos, *(f"cat/{number}.jpg" for number in range(8)))
    interrupt(monkeypatch, package, photos, tmp_path / "out", 5, skip_unreadable=True)
    journal = tmp_path / ".out.extracting"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    content = json.loads(journal.read_text())
    assert sorted(content) == ["copies", "id", "shards", "version"]
    assert sum(len(skipped) for _, skipped in content["shards"]) > 0
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
@pytest.mark.parametrize("change", ["picture", "dtype", "labels", "seed", "peaks"])
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
        package.peaks[0] *= 2
    with pytest.raises(UserError, match="release of other pictures, another package or other"):
        write(package, photos, tmp_path / "out", labelled, **options)
    assert contents(tmp_path / "out") == before


def test_nothing_is_decoded_for_a_folder_of_other_pictures_and_copies_are_looked_for_once(
    tmp_path, photos, package, monkeypatch
):
    shutil.copy(photos / "cat" / "holiday_005.png", photos / "cat" / "again.png")
    write(package, photos, tmp_path / "a")
    interrupt(monkeypatch, package, photos, tmp_path / "b")

    def fail(*args):
        pytest.fail("pictures are compared")

    with monkeypatch.context() as patch:
        patch.setattr(extract_release, "find_copies", fail)
        assert write(package, photos, tmp_path / "b").copies == 1
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "thesis.tex").write_text("mine")
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=r"holds thesis\.tex"):
            write(package, photos, tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    Image.fromarray(noise(5)).save(photos / "cat" / "holiday_006.png")
    monkeypatch.setattr(extract_release, "find_copies", fail)
    with pytest.raises(UserError, match="release of other pictures"):
        write(package, photos, tmp_path / "a")


def test_decoded_pictures_of_large_files_are_kept_for_the_next_release(
    tmp_path, package, monkeypatch
):
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (320, 320, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed}.png")  # 300 KiB
    pictures = find(tmp_path / "photos", labelled=False, data_dir=tmp_path / "data")
    extract_release.write_release(tmp_path / "a", package, pictures)
    monkeypatch.setattr(picture_cache, "decode_picture", None)
    other = handmade_package(seed="cd" * 32)
    assert extract_release.write_release(tmp_path / "b", other, pictures).rows == 3
    assert len(list((tmp_path / "data" / "decoded_pictures").iterdir())) == 6  # of two sizes


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
