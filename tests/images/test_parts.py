"""Tests of the four parts: what they hold, what they never share, and what users are told."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.tiny_dataset import prepare, tiny_builder

from privynet_jax.errors import UserError
from privynet_jax.images import tfds_source
from privynet_jax.images.parts import TRAIN_FRACTIONS, as_float, load_parts


def sizes(parts):
    return {name: len(part) for name, part in parts.items()}


def test_photo_parts_sizes_and_types(photo_parts):
    assert sizes(photo_parts) == {
        "target": 4904,
        "auxiliary": 3103,
        "validation": 1453,
        "test": 2247,
    }
    assert (photo_parts.num_classes, photo_parts.image_size) == (30, 32)
    for name, part in photo_parts.items():
        assert part.images.shape == (len(part), 32, 32, 3)
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
        assert len(np.unique(part.labels)) == 30, name


@pytest.mark.parametrize("spelt", ["tiny_spelt", "tiny_spelt:3.0.2", "TinySpelt"])
def test_however_a_data_set_is_spelt_its_classes_are_its_sources(tmp_path, monkeypatch, spelt):
    monkeypatch.setattr(tfds_source, "_CLASS_IS_SOURCE", frozenset({"tiny_spelt"}))
    prepare(tiny_builder("tiny_spelt", {"train": 24, "test": 6}), tmp_path)
    parts = load_parts(spelt, data_dir=tmp_path, image_size=4)
    np.testing.assert_array_equal(parts.test.clusters(), parts.test.labels)


def test_every_class_keeps_its_share(photo_parts):
    train = {name: part for name, part in photo_parts.items() if name != "test"}
    counts = {name: np.bincount(part.labels, minlength=30) for name, part in train.items()}
    total = sum(counts.values())
    for name, fraction in TRAIN_FRACTIONS.items():
        # A part is off by less than one cell, which is at most 50 patches.
        assert np.abs(counts[name] - fraction * total).max() < 50


def test_no_image_and_no_cell_is_in_two_parts(photo_parts, test_data_dir):
    builder = tfds.builder("photo_patches", data_dir=test_data_dir)
    cells = {}
    for split in ("train", "test"):
        for example in builder.as_data_source(split):
            cells.setdefault(example["image"].tobytes(), set()).add(example["cell"])
    # Equal bytes would leave the cell of an image unknown.
    assert all(len(found) == 1 for found in cells.values())
    seen = {}
    for name, part in photo_parts.items():
        for image in part.images:
            (cell,) = cells[image.tobytes()]
            assert seen.setdefault(cell, name) == name
    assert len(seen) > 300


def test_seed_decides_parts_but_never_which_images_are_tested(photo_parts, test_data_dir):
    other = load_parts("photo_patches", data_dir=test_data_dir, seed=1)
    assert photo_parts.fingerprint != other.fingerprint

    def contents(part):
        return sorted(image.tobytes() for image in part.images)

    assert contents(other.target) != contents(photo_parts.target)
    assert contents(other.test) == contents(photo_parts.test)


def test_mean_image_reaches_twelve_db(photo_parts):
    # Measured: 12.0 dB for the mean image; another cutting may move it by a few tenths.
    mean = as_float(photo_parts.target.images).mean(axis=0)
    error = np.mean((as_float(photo_parts.test.images) - mean) ** 2)
    assert -10 * np.log10(error) == pytest.approx(12.0, abs=0.5)


def test_max_images_keeps_classes_equal_and_order(photo_parts, test_data_dir):
    limits = {"target": 310, "test": 10**9}
    capped = load_parts("photo_patches", data_dir=test_data_dir, max_images=limits)
    assert sizes(capped) == sizes(photo_parts) | {"target": 310}
    for name in ("auxiliary", "validation", "test"):  # the same seed makes the same parts
        np.testing.assert_array_equal(
            getattr(capped, name).images, getattr(photo_parts, name).images
        )
    counts = np.bincount(capped.target.labels)
    assert (counts.min(), counts.max()) == (10, 11)
    whole = [image.tobytes() for image in photo_parts.target.images]
    places = [whole.index(image.tobytes()) for image in capped.target.images]
    assert places == sorted(places)


def test_photo_patches_can_be_resized(photo_parts, test_data_dir):
    small = load_parts("photo_patches", data_dir=test_data_dir, image_size=16)
    assert small.image_size == 16
    assert small.fingerprint != photo_parts.fingerprint
    np.testing.assert_array_equal(small.test.labels, photo_parts.test.labels)
    boxes = photo_parts.test.images.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    # Two antialiasing filters differ at edges, yet on average by little.
    assert np.abs(small.test.images - boxes).mean() < 4


def test_as_float():
    np.testing.assert_array_equal(
        as_float(np.array([0, 51, 255], np.uint8)), np.array([0, 0.2, 1], np.float32)
    )
    assert as_float(np.zeros(1, np.uint8)).dtype == np.float32
    with pytest.raises(ValueError, match="Expected uint8 images, got float64"):
        as_float(np.zeros(1))


def test_a_prepared_cifar10_is_read_without_tensorflow(tmp_path):
    prepare(tiny_builder("cifar10", {"train": 60, "test": 9}), tmp_path)
    parts = load_parts("cifar10", data_dir=tmp_path, image_size=8)
    assert sizes(parts) == {"target": 30, "auxiliary": 21, "validation": 9, "test": 9}
    assert parts.class_names == ("dark", "grey", "bright")
    for _, part in parts.items():
        # 20x12 grey images became 8x8 RGB; a constant image stays so under crop and resize.
        expected = np.broadcast_to(50 * part.labels[:, None, None, None], (len(part), 8, 8, 3))
        np.testing.assert_array_equal(part.images, expected)


@pytest.mark.parametrize("splits", [{"train": 75}, {"train": 75, "test": 9}])
def test_without_labelled_test_split_a_fixed_fifth_is_held_out(tmp_path, splits):
    prepare(tiny_builder("files_only", splits, hidden_labels=["test"]), tmp_path)
    parts = load_parts("files_only", data_dir=tmp_path)
    assert sizes(parts) == {"target": 30, "auxiliary": 21, "validation": 9, "test": 15}
    assert list(np.bincount(parts.test.labels)) == [5, 5, 5]


def test_validation_split_serves_as_test(tmp_path):
    prepare(tiny_builder("files_only", {"train": 60, "validation": 6}), tmp_path)
    assert sizes(load_parts("files_only", data_dir=tmp_path))["test"] == 6


def test_too_few_images(tmp_path):
    prepare(tiny_builder("files_only", {"train": 4, "test": 3}), tmp_path)
    with pytest.raises(UserError, match="too few images: none is left for the part validation"):
        load_parts("files_only", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size is 0; allowed are 1 and more"),
        ({"seed": -1}, "seed is -1; allowed are 0 and more"),
        ({"max_images": {"test": 0}}, "max_images of test is 0; allowed are 1 and more"),
        ({"max_images": {"train": 5}}, r"max_images names \['train'\]; allowed are target"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        load_parts("photo_patches", data_dir=tmp_path, **arguments)
