"""Package and pictures to a release: values, order, skipping, and going on after a kill."""

import csv
import dataclasses
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.handmade_package import CLASS_IDS, CLASSES, contents, fill, handmade_package
from support.handmade_release import ROWS, find, spoil, write

from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_files import files_at
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_manifest import read_manifest
from privynet_jax.deployment.release.row_order import check_replaceable
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading

pytestmark = pytest.mark.usefixtures("small_shards")


def pixels_by_row(order_csv, folder):
    """The pictures of a release, decoded independently, in the order of its rows."""
    with open(order_csv, newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(line["row"]) for line in table] == list(range(len(table)))
    paths = [line["picture"] for line in table]
    return np.stack([np.asarray(Image.open(folder / path)) for path in paths]), paths


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
    expected = package.represent(pixels)
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
    assert release.classes == tuple(CLASS_IDS.values())


def test_without_labels_folders_may_be_arranged_in_any_way(tmp_path, photos, package):
    (photos / "2024" / "trip").mkdir(parents=True)
    shutil.move(photos / "cat" / "holiday_005.png", photos / "2024" / "trip" / "a.png")
    shutil.move(photos / "cat" / "holiday_006.png", photos / "b.png")
    write(package, photos, tmp_path / "out", labelled=False)
    release = open_release(tmp_path / "out")
    assert (len(release), release.labels, release.classes) == (ROWS, None, None)


def test_pictures_of_all_sizes_have_rows_of_one(tmp_path, package):
    folder, order = tmp_path / "photos", tmp_path / "order.csv"
    fill(folder, {"bird": 6})
    grey = np.full((40, 90, 3), 200, np.uint8)
    Image.fromarray(grey).save(folder / "bird" / "wide.png")
    write(package, folder, tmp_path / "out", labelled=False, order_out=order)
    paths = [line.split(",")[1] for line in order.read_text().splitlines()[1:]]
    row = paths.index("bird/wide.png")
    expected = package.represent(np.full((1, 16, 16, 3), 200, np.uint8))
    found = open_release(tmp_path / "out").representations[np.array([row])]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # as above


def test_bytes_hold_nothing_negative(tmp_path, photos, package):
    noisy = dataclasses.replace(package, is_signed=True)
    with pytest.raises(UserError, match="holds nothing negative, which this package's noise"):
        write(noisy, photos, tmp_path / "out", dtype="uint8")
    assert not (tmp_path / "out").exists()


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


def test_a_disk_that_is_too_small(tmp_path, photos, package, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 999))
    with pytest.raises(UserError, match=r"needs 0 MiB more .* 0 MiB free; free some"):
        write(package, photos, tmp_path / "out")


def test_pictures_are_decoded_as_the_plan_s_were(tmp_path):
    greys = np.random.default_rng(0).integers(0, 4096, (4, 16, 16)).astype(np.uint16)
    (tmp_path / "deep").mkdir()
    for number, grey in enumerate(greys):
        Image.fromarray(grey).save(tmp_path / "deep" / f"{number}.png")
    pictures = find(tmp_path / "deep", labelled=False)
    planned = dataclasses.replace(handmade_package(), reading=Reading(4095))
    write_release(tmp_path / "planned", planned, pictures)
    told = dataclasses.replace(pictures, reading=Reading(4095))
    write_release(tmp_path / "told", handmade_package(), told)
    assert open_release(tmp_path / "planned").id == open_release(tmp_path / "told").id
    other = dataclasses.replace(pictures, reading=Reading(1023))
    with pytest.raises(UserError, match=r"sixteen_bit_max is 1023, but what .* with 4095; leave"):
        write_release(tmp_path / "other", planned, other)
    assert not (tmp_path / "other").exists()


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


def test_a_name_that_is_no_utf_8_is_listed_as_it_is(tmp_path, photos, package):
    name = os.fsdecode(b"cat/caf\xe9.png")
    (photos / "cat" / "holiday_005.png").rename(photos / name)
    order = tmp_path / "order.csv"
    write(package, photos, tmp_path / "out", order_out=order)
    assert b",cat/caf\xe9.png," in order.read_bytes()


def test_an_order_replaces_nothing_but_the_same_release_s(tmp_path, photos, package):
    order = tmp_path / "plan.json"
    for content in ("{}", "row,picture\n0,cat/0.png\n1,nobody.png\n", ""):
        order.write_text(content)
        with pytest.raises(UserError, match="exists already, and is not of this release"):
            write(package, photos, tmp_path / "out", order_out=order)
        assert order.read_text() == content
        assert not (tmp_path / "out").exists()
    order.unlink()
    write(package, photos, tmp_path / "out", order_out=order)
    first = order.read_text()
    assert write(package, photos, tmp_path / "out", order_out=order).shards_kept == 5
    assert order.read_text() == first
    # Where a kill came before the release was complete, and a picture was skipped.
    lines = first.splitlines()[:-1]
    order.write_text("\n".join(lines))
    check_replaceable(order, read_manifest(files_at(tmp_path / "out")).id)


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


def test_copies_are_released_once_and_those_of_two_classes_are_named(
    tmp_path, photos, package, caplog
):
    shutil.copy(photos / "cat" / "holiday_005.png", photos / "cat" / "again.png")
    Image.open(photos / "cat" / "holiday_006.png").save(photos / "dog" / "x.tiff")
    order = tmp_path / "order.csv"
    written = write(package, photos, tmp_path / "out", order_out=order)
    assert (written.rows, written.copies) == (ROWS, 2)
    assert "1 pictures are copies of one with another label" in caplog.text
    assert "dog/x.tiff of " in caplog.text
    assert "left out 2 copies: " in caplog.text
    paths = [line.split(",")[1] for line in order.read_text().splitlines()[1:]]
    assert "cat/again.png" in paths  # the first of both
    assert not {"cat/holiday_005.png", "dog/x.tiff"} & set(paths)
    assert write(package, photos, tmp_path / "out").copies == 2


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
    assert "skipped 1 unreadable images of the pictures, such as " in caplog.text
    assert finished.items() <= contents(tmp_path / "out").items()
    pixels, _ = pixels_by_row(order, photos)
    expected = package.represent(pixels)
    found = open_release(tmp_path / "out").representations[:]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    kept = order.read_bytes()
    assert write(package, photos, tmp_path / "out", **skipping).skipped == 1
    assert order.read_bytes() == kept
    # Complete; but which was skipped is not known any more.
    order.unlink()
    assert write(package, photos, tmp_path / "out", skip_unreadable=True).skipped == 1
    with pytest.raises(UserError, match="which pictures it skipped was not kept"):
        write(package, photos, tmp_path / "out", **skipping)


def test_nothing_but_unreadable_pictures(tmp_path, package):
    (tmp_path / "photos").mkdir()
    spoil(tmp_path / "photos", *(f"{index}.jpg" for index in range(8)))
    with pytest.raises(UserError, match="no picture can be read; all 8 were skipped"):
        write(package, tmp_path / "photos", tmp_path / "out", False, skip_unreadable=True)
    with pytest.raises(UserError, match="it is no image"):
        write(package, tmp_path / "photos", tmp_path / "out", False)
    assert os.listdir(tmp_path) == ["photos"]  # neither an empty folder nor a journal
