"""Folders of pictures become data sets, and folders that cannot say what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from privynet_jax.errors import UserError
from privynet_jax.images.folders import list_pictures, read_folder
from privynet_jax.images.parts import load_parts


def fill(folder, classes, *, seed=0, size=(20, 16)):
    """Writes `classes`: name -> number of pictures, all different."""
    stream = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = stream.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def load(folder, **options):
    return load_parts(f"folder:{folder}", data_dir=None, image_size=8, **options)


def test_classes_are_subfolders_in_order_of_their_names(tmp_path):
    fill(tmp_path, {"zebra": 4, "ant": 5})
    (tmp_path / "ant" / ".DS_Store").write_bytes(b"hidden files are no pictures")
    train, test, class_names = read_folder(tmp_path)
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


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "holds nothing"),
        ({"a": 8}, "the one class a"),
        ({"a": 8, "b": 1}, "too few different pictures: b has 1"),
        ({"a": 8, "b": 0}, "b holds no pictures"),
        ({"train/a": 8, "train/b": 8, "test/c": 2}, "classes that train has not: c"),
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
    (tmp_path / "labels.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"the file labels\.csv where one subfolder per class"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_folder(tmp_path / "nowhere")


def test_a_flat_folder_lists_its_pictures(tmp_path):
    fill(tmp_path, {"flat": 3})
    assert [path.name for path in list_pictures(tmp_path / "flat")] == [
        f"00{i}.png" for i in range(3)
    ]
