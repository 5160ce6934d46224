"""Folders of pictures become data sets, and folders that cannot say what is wrong with them."""

import errno
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from support.picture_files import fill

from privynet_jax.errors import UserError
from privynet_jax.images.folders import folder_of, list_pictures, plain_dataset, read_folder
from privynet_jax.images.parts import load_parts


def load(folder, **options):
    return load_parts(f"folder:{folder}", data_dir=None, image_size=8, **options)


def test_classes_are_subfolders_in_order_of_their_names(tmp_path):
    fill(tmp_path, {"zebra": 4, "ant": 5})
    train, test, class_names, _ = read_folder(tmp_path)
    assert class_names == ("ant", "zebra")
    assert test is None
    assert train.labels.tolist() == [0] * 5 + [1] * 4
    assert train.images[7] == tmp_path / "zebra" / "002.png"


def test_pictures_in_deeper_folders_belong_to_the_class(tmp_path):
    fill(tmp_path, {"a/2024": 3, "a/2025": 2, "b": 4})
    assert read_folder(tmp_path).train.labels.tolist() == [0] * 5 + [1] * 4


def test_a_test_split_of_its_own_is_used(tmp_path):
    fill(tmp_path / "train", {"a": 10, "b": 10})
    fill(tmp_path / "test", {"b": 2, "a": 3}, seed=1)
    parts = load(tmp_path)
    assert {name: len(part) for name, part in parts.items()} == {
        "target": 10,
        "auxiliary": 8,
        "validation": 2,
        "test": 5,
    }
    assert sorted(parts.test.labels.tolist()) == [0, 0, 0, 1, 1]


def test_copies_of_a_file_stay_in_one_part(tmp_path):
    fill(tmp_path, {"a": 12, "b": 12})
    for source in sorted((tmp_path / "a").iterdir()):
        (tmp_path / "a" / f"copy-{source.name}").write_bytes(source.read_bytes())
    parts = load(tmp_path)
    contents = [{image.tobytes() for image in part.images} for _, part in parts.items()]
    assert sum(map(len, contents)) == len(set().union(*contents)) == 24


def test_parts_do_not_depend_on_where_the_folder_is(tmp_path):
    here, there = fill(tmp_path / "here", {"a": 9, "b": 9}), fill(tmp_path / "x", {"a": 9, "b": 9})
    first, second = load(here), load(there)
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_unreadable_files_are_named_or_skipped(tmp_path, caplog):
    fill(tmp_path, {"a": 8, "b": 8})
    bad = tmp_path / "a" / "000.png"
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"a/000\.png: the file is empty.*--skip_unreadable"):
        load(tmp_path)
    parts = load(tmp_path, skip_unreadable=True)
    assert sum(len(part) for _, part in parts.items()) == 15
    assert "skipped 1 unreadable images" in caplog.text


def test_files_that_nobody_may_read_are_unreadable(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 8, "b": 8})
    read = Path.read_bytes

    def refused(path):  # permissions stop no administrator, as whom tests may run
        if path.name == "000.png" and path.parent.name == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"a/000\.png: you have no permission to read it; .*skip"):
        load(tmp_path)
    parts = load(tmp_path, skip_unreadable=True)
    assert sum(len(part) for _, part in parts.items()) == 15


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "holds nothing"),
        ({"a": 8}, "the one class a"),
        ({"a": 8, "b": 1}, "too few different pictures: b has 1"),
        ({"a": 8, "b": 0}, "b holds no pictures"),
        ({"train/a": 8, "train/b": 8, "test/c": 2}, "classes that train has not: c"),
        ({"val/a": 8, "Test/a": 8}, "has Test and val and no train; call what is learnt from"),
        ({"train/a": 8, "Training/a": 8}, "has Training and train for the same split"),
        ({"train/a": 8, "test/a": 8, "more/a": 8}, "has test and train beside more"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, classes, message):
    fill(tmp_path, classes)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path)


def test_what_is_not_dealt_out_to_parts_may_be_little(tmp_path):
    fill(tmp_path / "few", {"a": 1, "b": 2})
    assert read_folder(tmp_path / "few", in_parts=False).train.labels.tolist() == [0, 1, 1]
    fill(tmp_path / "one", {"train/a": 1})
    assert read_folder(tmp_path / "one", in_parts=False).class_names == ("a",)
    fill(tmp_path / "none", {"a": 2, "b": 0})
    with pytest.raises(UserError, match="b holds no pictures"):
        read_folder(tmp_path / "none", in_parts=False)


def test_loose_files_and_missing_folders(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "notes.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"the file notes\.csv where one subfolder per class"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
    for reads in (folder_of, plain_dataset):  # and does not take the current folder
        with pytest.raises(UserError, match="folder: names no folder"):
            reads("folder:")


def test_a_flat_folder_lists_its_pictures(tmp_path):
    fill(tmp_path, {"flat": 3})
    assert [path.name for path in list_pictures(tmp_path / "flat")] == [
        f"00{i}.png" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("places", "sizes", "told"),
    [
        (("Train", "Test"), (8, 4), "train is Train, test is Test"),
        (("training", "testing"), (8, 4), "train is training, test is testing"),
        (("train", "Valid"), (8, 4), "train is train, test is Valid"),
        (("train", "validation", "test"), (12, 4), "train is train and validation, test is test"),
        (("train",), (8, None), "train is train, test is a fifth of that"),
    ],
)
def test_splits_are_known_by_their_usual_names(tmp_path, caplog, places, sizes, told):
    for seed, place in enumerate(places):
        count = 2 if seed else 4
        fill(tmp_path / place, {"a": count, "b": count}, seed=seed)
    train, test, names, _ = read_folder(tmp_path)
    assert (len(train), test and len(test), names) == (*sizes, ("a", "b"))
    assert told in caplog.text


def test_one_class_may_be_called_as_a_split(tmp_path):
    fill(tmp_path, {"train": 4, "bus": 4})
    assert read_folder(tmp_path).class_names == ("bus", "train")


def photographs(folder, names, suffix, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = Image.fromarray(getattr(data, name)()).convert("RGB").resize((96, 96))
        image.save(folder / f"{name}{suffix}", **options)


def test_copies_of_test_pictures_are_left_out_and_contradictions_are_named(tmp_path, caplog):
    fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "test", {"a": 1, "b": 1}, seed=1)
    photographs(tmp_path / "train" / "a", ["astronaut", "coffee"], ".png")
    photographs(tmp_path / "train" / "b", ["coffee"], ".jpg", quality=80)
    photographs(tmp_path / "test" / "a", ["astronaut"], ".jpg", quality=60)
    train, test, _, _ = read_folder(tmp_path)
    assert "left out 1 pictures of train that are copies of test pictures: " in caplog.text
    assert "train/a/astronaut.png of " in caplog.text
    assert "test/a/astronaut.jpg; that is" not in caplog.text  # 1 of 11
    assert len(train) == 10
    assert not any("astronaut" in path.name for path in train.images)
    assert "1 pictures are copies of pictures of another class, such as" in caplog.text
    assert "b/coffee.jpg and" in caplog.text
    assert len(np.unique(train.groups)) == 9
    assert not set(train.groups) & set(test.groups)
    assert len(read_folder(tmp_path, in_parts=False).train) == 11  # a release looks by itself


def test_splits_by_other_names_are_told(tmp_path, caplog):
    for name in ("train_data", "test_data"):
        fill(tmp_path / name, {"a": 2, "b": 2})
    assert read_folder(tmp_path, in_parts=False).class_names == ("test_data", "train_data")
    assert "test_data and train_data hold the same subfolders" in caplog.text


def test_a_class_whose_name_is_no_utf_8_is_refused(tmp_path):
    fill(tmp_path, {"a": 1, os.fsdecode(b"caf\xe9"): 1})
    with pytest.raises(UserError, match=r"caf\\udce9' is no UTF-8; rename it"):
        read_folder(tmp_path, in_parts=False)


def test_links_to_folders_are_followed_once_and_never_in_circles(tmp_path, caplog):
    fill(tmp_path / "store", {"cats": 4, "more": 2})
    fill(tmp_path / "data", {"dogs/old": 4}, seed=1)
    (tmp_path / "data" / "cats").symlink_to(tmp_path / "store" / "cats")
    for name, target in {"x": "store/more", "y": "store/more", "z": "data/dogs/old"}.items():
        (tmp_path / "data" / "dogs" / name).symlink_to(tmp_path / target)
    (tmp_path / "data" / "dogs" / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "round").symlink_to(tmp_path)
    train, _, names, _ = read_folder(tmp_path / "data")
    assert names == ("cats", "dogs")
    assert train.labels.tolist() == [0] * 4 + [1] * 6
    assert [path.parent.name for path in train.images[4:]] == ["old"] * 4 + ["x"] * 2
    assert "passed over 3 links to folders that are read anyway, such as" in caplog.text
    assert "passed over 1 links" in caplog.text
    assert len(list_pictures(tmp_path / "data")) == 10


def test_names_that_look_alike_are_one_class(tmp_path):
    one, other = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    fill(tmp_path, {one: 3, "tea": 4})
    fill(tmp_path, {other: 2}, seed=1)
    train, _, names, _ = read_folder(tmp_path)
    assert names == (one, "tea")
    assert train.labels.tolist() == [0] * 5 + [1] * 4


def test_what_systems_leave_is_neither_picture_nor_class(tmp_path):
    fill(tmp_path, {"a": 4, "b": 4, "__MACOSX/a": 1, ".ipynb_checkpoints": 1})
    fill(tmp_path, {"@eaDir": 1, "lost+found": 1, "$RECYCLE.BIN": 1})
    for place in (tmp_path, tmp_path / "a"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "Icon\r"):
            (place / name).write_bytes(b"nothing")
    train, _, names, _ = read_folder(tmp_path)
    assert (len(train), names) == (8, ("a", "b"))


def test_one_folder_has_one_name_however_it_is_written(tmp_path, monkeypatch):
    fill(tmp_path / "pictures", {"a": 8, "b": 8})
    monkeypatch.chdir(tmp_path)
    found = [load(name) for name in ("pictures", "./pictures", "pictures/", "pictures//.")]
    assert {parts.name for parts in found} == {"folder:pictures"}
    assert len({parts.fingerprint for parts in found}) == 1


def test_the_same_test_images_are_used_for_every_seed(tmp_path):
    fill(tmp_path / "train", {"a": 10, "b": 10})
    fill(tmp_path / "test", {"a": 20, "b": 20}, seed=1)
    cut, whole = (
        [load(tmp_path, seed=seed, max_images=most).test.images for seed in (0, 1, 2)]
        for most in ({"test": 10}, {})
    )
    for tests in (cut, whole):
        contents = [[image.tobytes() for image in images] for images in tests]
        assert sorted(contents[0]) == sorted(contents[1]) == sorted(contents[2])
        assert contents[0] != contents[1]
    assert len(cut[0]) == 10
    # Those of seed 0 are the first of each class, as without a limit.
    places = [[x.tobytes() for x in whole[0]].index(x.tobytes()) for x in cut[0]]
    assert places == sorted(places)
