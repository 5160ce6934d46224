"""Tests of photo_patches on the real photographs, and of its arithmetic on made-up ones."""

import collections
import hashlib
import importlib.machinery
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import tensorflow_datasets as tfds
from skimage.transform import downscale_local_mean

from privynet_jax.errors import UserError
from privynet_jax.images import photo_patches

# sha256 over image, label, cell and scale of every example, train then test, in the order read.
# It changes when a photograph, the cutting or the decoding of JPEG changes, and then so do all
# numbers measured on photo_patches.
DIGEST = "efd292af62993d930d9d00e4db2c64ca7f4e9aa3954b83e48eec20a35ee4183f"
COUNTS = {"train": 9460, "test": 2247}


def read(data_dir):
    builder = tfds.builder("photo_patches", data_dir=data_dir)
    return {split: list(builder.as_data_source(split)) for split in COUNTS}


def digest_of(examples_of_split):
    digest = hashlib.sha256()
    for examples in examples_of_split.values():
        for example in examples:
            digest.update(example["image"].tobytes())
            numbers = [example[key] for key in ("label", "cell", "scale")]
            digest.update(np.array(numbers, "<i4").tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def examples(test_data_dir, photo_parts):
    del photo_parts  # it prepares the data set
    return read(test_data_dir)


@pytest.fixture
def downloads(test_data_dir, photo_parts, tmp_path):
    """A copy of the folder that holds the downloaded photographs, free to be damaged."""
    del photo_parts
    return Path(shutil.copytree(test_data_dir / "downloads", tmp_path / "downloads"))


def test_counts_and_digest(examples):
    assert {split: len(found) for split, found in examples.items()} == COUNTS
    assert digest_of(examples) == DIGEST


@pytest.mark.slow
def test_preparing_again_gives_the_same_bytes_in_the_same_order(downloads):
    builder = photo_patches.PhotoPatches(data_dir=downloads.parent, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    assert digest_of(read(downloads.parent)) == DIGEST


def test_every_class_is_in_both_splits_and_under_its_cap(examples):
    limits = {"train": (152, 350), "test": (36, 80)}
    for split, (fewest, most) in limits.items():
        counts = collections.Counter(example["label"] for example in examples[split])
        assert sorted(counts) == list(range(30))
        assert (min(counts.values()), max(counts.values())) == (fewest, most)
        assert most == photo_patches.MAX_PATCHES[split]


def test_narrow_photographs_have_whole_patches_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3400, 3), dtype=np.uint8)
    parts = photo_patches.cut_photograph(pixels)
    # A quarter of 120 rows is no patch.
    assert {patch.scale for patches in parts.values() for patch in patches} == {1, 2}
    assert {p.image.shape for patches in parts.values() for p in patches} == {(32, 32, 3)}


def test_class_names():
    assert len(photo_patches.CLASS_NAMES) == len(set(photo_patches.CLASS_NAMES)) == 30
    assert photo_patches.CLASS_NAMES[3] == "motorcycle_left"
    assert photo_patches.CLASS_NAMES[8:12] == ("china", "flower", "imagenet_00", "imagenet_01")


def test_a_cell_has_one_class_and_one_split(examples):
    cells = {split: {e["cell"]: e["label"] for e in found} for split, found in examples.items()}
    assert not cells["train"].keys() & cells["test"].keys()
    for split, found in examples.items():
        assert all(cells[split][example["cell"]] == example["label"] for example in found)
        for cell in cells[split]:
            row, column = cell // 100 % 100, cell % 100
            assert ((2 * row + column) % 5 == 0) == (split == "test")


def test_patches_read_are_those_of_the_photograph(examples):
    # Cell (0, 1) of the astronaut starts at the top, a third of 512 px from the left; the class is
    # under its cap, so the first patch at full resolution is the cell's corner.
    astronaut = skimage.data.astronaut()
    fine = [e["image"] for e in examples["train"] if e["cell"] == 1 and e["scale"] == 1]
    np.testing.assert_array_equal(fine[0], astronaut[:32, 170 : 170 + 32])


def test_patches_lie_wholly_in_their_cell():
    # 2 x 3 cells of 170 px: the first channel names the cell, the others keep it from being flat.
    photograph = np.random.default_rng(0).integers(0, 256, (340, 510, 3), dtype=np.uint8)
    photograph[..., 0] = 10 * (np.arange(340)[:, None] // 170) + np.arange(510) // 170
    parts = photo_patches.cut_photograph(photograph)
    patches = parts["train"] + parts["test"]
    assert len({(patch.row, patch.column) for patch in patches}) == 6
    for patch in patches:
        assert patch.image.shape == (32, 32, 3)
        assert (patch.image[..., 0] == 10 * patch.row + patch.column).all()
    assert {(patch.row, patch.column) for patch in parts["test"]} == {(0, 0)}


def test_a_grid_of_patches_reaches_all_four_corners_of_its_cell():
    photograph = np.random.default_rng(1).integers(0, 256, (170, 170, 3), dtype=np.uint8)
    patches = photo_patches.cut_photograph(photograph)["test"]
    fine = [patch.image for patch in patches if patch.scale == 1]
    assert len(fine) == 25
    np.testing.assert_array_equal(fine[0], photograph[:32, :32])
    np.testing.assert_array_equal(fine[4], photograph[:32, -32:])
    np.testing.assert_array_equal(fine[-1], photograph[-32:, -32:])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_box_average_agrees_with_scikit_image(scale):
    image = np.random.default_rng(2).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    rows, columns = 37 // scale, 50 // scale
    whole = image[: rows * scale, : columns * scale].astype(float)
    expected = downscale_local_mean(whole, (scale, scale, 1))
    found = photo_patches.box_average(image, scale)
    assert found.shape == (rows, columns, 3)
    assert found.dtype == np.uint8
    # Rounding to nearest is off by half a level at most; box sums are exact.
    assert np.abs(found - expected).max() <= 0.5


def test_box_average_rounds_halves_up():
    image = np.array([[0, 1], [0, 1]], np.uint8)[..., None]  # mean 0.5
    assert photo_patches.box_average(image, 2) == 1


def test_flat_means_a_mean_std_under_six():
    checkers = np.indices((32, 32)).sum(0) % 2
    patch = np.zeros((32, 32, 3), np.uint8)
    patch[..., 0] = 34 * checkers  # std 17, 0, 0: mean 5.67
    assert photo_patches.is_flat(patch)
    patch[..., 0] = 36 * checkers  # std 18, 0, 0: mean exactly 6
    assert not photo_patches.is_flat(patch)


def test_a_damaged_download_is_named(downloads):
    path = downloads / "foolbox-3.3.4" / "foolbox" / "data" / "imagenet_07_609.jpg"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"imagenet_07_609\.jpg is damaged"):
        photo_patches.photograph_paths(downloads)


@pytest.mark.parametrize(("damage", "message"), [("cut", "is damaged"), ("gone", "is missing")])
def test_a_damaged_or_missing_installed_photograph_is_named(
    downloads, tmp_path, monkeypatch, damage, message
):
    find_spec = importlib.util.find_spec
    original = Path(find_spec("skimage").origin).parent / "data"
    copy = shutil.copytree(original, tmp_path / "skimage" / "data")
    if damage == "cut":
        (copy / "chelsea.png").write_bytes(b"not the cat")
    else:
        (copy / "chelsea.png").unlink()
    spec = importlib.machinery.ModuleSpec(
        "skimage", None, origin=str(tmp_path / "skimage" / "__init__.py")
    )
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name == "skimage" else find_spec(name)
    )
    with pytest.raises(UserError, match=rf"chelsea\.png.*{message}.*; reinstall the package"):
        photo_patches.photograph_paths(downloads)


def test_neither_tensorflow_nor_scikit_learn_is_imported(test_data_dir, photo_parts):
    del photo_parts
    program = (
        "import sys; from privynet_jax.images.parts import PART_NAMES, load_parts;"
        "few = dict.fromkeys(PART_NAMES, 30);"  # soon enough for no bar to appear
        f"load_parts('photo_patches', data_dir={str(test_data_dir)!r}, max_images=few);"
        "print({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'sklearn'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"  # nor does TFDS print anything
    assert done.stderr == ""
