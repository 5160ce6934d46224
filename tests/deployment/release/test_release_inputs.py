"""Which pictures a release is made of, their labels, and their secret order."""

import dataclasses
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from support import tiny_dataset
from support.handmade_package import CLASS_IDS, fill
from support.handmade_release import ROWS, find, write

from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_inputs import find_pictures, release_secrets
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading


def test_only_classes_that_occur_are_told(tmp_path, package):
    fill(tmp_path / "two", {"dog": 4, "bird": 5})  # a folder of two classes, of which dog is 2
    write(package, tmp_path / "two", tmp_path / "out")
    release = open_release(tmp_path / "out")
    assert np.bincount(release.labels).tolist() == [5, 4]
    assert release.classes == (CLASS_IDS["bird"], CLASS_IDS["dog"])


def test_classes_that_the_package_does_not_know_are_named(tmp_path, package):
    fill(tmp_path / "zoo", {"dog": 4, "emu": 4, "yak": 4})
    with pytest.raises(UserError, match="does not know: emu, yak; allowed are bird, cat, dog"):
        write(package, tmp_path / "zoo", tmp_path / "out")
    assert os.listdir(tmp_path) == ["zoo"]
    write(package, tmp_path / "zoo", tmp_path / "out", labelled=False)
    assert len(open_release(tmp_path / "out")) == 12


def test_names_of_classes_match_however_they_are_written(tmp_path):
    one, other = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    fill(tmp_path, {one: 2, "tea": 2})
    for name in (one, other):
        found = find_pictures(f"folder:{tmp_path}", class_names=("tea", name), labelled=True)
        assert found.labels.tolist() == [1, 1, 0, 0]


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
        release_secrets(
            dataclasses.replace(pictures, reading=Reading(4095)), seed, {"dtype": "float32"}
        ),
    ]
    orders = [np.arange(ROWS), *(secrets.order for secrets in [first, *others])]
    for index, order in enumerate(orders):
        for another in orders[:index]:
            # Of 22 places one in a random permutation agrees, on average.
            assert (order == another).sum() < ROWS / 2
    assert len({secrets.id for secrets in [first, *others]}) == 6


def test_every_place_is_equally_likely_for_every_picture(photos):
    pictures, orders = find(photos), 400
    picture_at_0 = [
        release_secrets(pictures, f"{seed:064x}", {}).order[0] for seed in range(orders)
    ]
    expected = orders / ROWS
    chi2 = ((np.bincount(picture_at_0, minlength=ROWS) - expected) ** 2 / expected).sum()
    assert chi2 < 49.0  # 21 degrees of freedom: exceeded by chance with probability 0.0005
