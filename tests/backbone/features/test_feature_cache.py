"""The feature cache: right values, and whatever is missing or damaged is named and repaired."""

import dataclasses
import json
import logging
import re
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from support.small_cache import CHANNELS, COUNT, UNION, changed_first_layer, contents, folder_of

from privynet_jax.backbone.features import extraction, feature_cache
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.errors import UserError
from privynet_jax.images.parts import PART_NAMES
from privynet_jax.platform.rows.row_views import ChosenChannels

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_second_call_reads_what_the_first_wrote(vgg_weights, few_parts, cached, passes):
    before = contents(cached)
    features = load_features(vgg_weights, few_parts, UNION, cached)
    assert (passes, contents(cached)) == ([], before)
    assert list(features) == [1, 3]
    assert features[1].channels == CHANNELS
    folder = folder_of(1, cached)
    manifest = json.loads((folder / "manifest.json").read_text())
    np.testing.assert_array_equal(features[1].scales, np.float32(manifest["scales"]), strict=True)
    for name in PART_NAMES:
        stored = features[1].parts[name]
        assert (stored.shape, stored.dtype) == ((COUNT, 32, 32, 3), np.float16)
        pieces = [np.load(folder / f"{name}-{index:05d}.npy") for index in range(3)]
        np.testing.assert_array_equal(np.concatenate(pieces), stored)
        batch = ChosenChannels(stored, [2, 0], 4)[[9, 3, 4]]
        np.testing.assert_array_equal(batch[..., :2], stored[[9, 3, 4]][..., [2, 0]])
        assert not batch[..., 2:].any()


def test_features_of_somebody_s_own_pictures_are_theirs_alone(vgg_weights, few_parts, tmp_path):
    for name, is_public in (("folder:pictures", False), ("few", True)):
        parts = dataclasses.replace(few_parts, name=name)
        load_features(vgg_weights, parts, {1: CHANNELS}, tmp_path / name)
        [folder] = (tmp_path / name / "features").iterdir()
        assert bool(folder.stat().st_mode & 0o077) == is_public


def test_rows_come_from_files_where_they_do_not_fit_into_memory(
    vgg_weights, few_parts, written, monkeypatch
):
    held = load_features(vgg_weights, few_parts, UNION, written)
    monkeypatch.setattr(feature_cache, "_HELD_BYTES", 0)
    read = load_features(vgg_weights, few_parts, UNION, written)
    for layer in UNION:
        stored = read[layer].parts["target"]
        assert stored._held is None
        assert held[layer].parts["target"]._held is not None
        np.testing.assert_array_equal(stored, held[layer].parts["target"])


def test_another_grid_finds_the_layers_that_it_shares(vgg_weights, few_parts, cached, passes):
    folders = len(list((cached / "features").iterdir()))
    load_features(vgg_weights, few_parts, {1: CHANNELS, 2: (3,)}, cached)
    assert len(list((cached / "features").iterdir())) == folders + 1
    load_features(vgg_weights, few_parts, {2: (3,), 3: (7, 99)}, cached)
    # One calibration, and one pass over four parts in shards of 4, 4 and 2: all for layer 2.
    assert passes == [COUNT, *[4, 4, 2] * 4]


def test_anything_else_gets_a_folder_of_its_own(vgg_weights, few_parts, cached):
    before = contents(cached)
    other_weights = changed_first_layer(vgg_weights, bias={5: 0.1})
    other_data = dataclasses.replace(few_parts, fingerprint="other")
    load_features(vgg_weights, few_parts, {1: (0, 5, 41)}, cached)
    load_features(vgg_weights, other_data, {1: CHANNELS}, cached)
    load_features(other_weights, few_parts, {1: CHANNELS}, cached)
    load_features(vgg_weights, few_parts, {1: CHANNELS}, cached, dtype="uint8")
    load_features(vgg_weights, few_parts, {1: CHANNELS}, cached, dtype="float32")
    assert len(list((cached / "features").iterdir())) == 2 + 5
    assert before.items() <= contents(cached).items()


def flip(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return damage


# `test_shards.py` has all kinds of damage.
DAMAGES = {
    "a byte": (flip(1000), "does not match its checksum"),
    "missing": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_named_and_rebuilt(
    vgg_weights, few_parts, written, cached, passes, caplog, name
):
    damage, complaint = DAMAGES[name]
    path = folder_of(3, cached) / "validation-00001.npy"
    damage(path)
    features = load_features(vgg_weights, few_parts, UNION, cached)
    [message] = [record.getMessage() for record in caplog.records]
    expected = rf"{re.escape(str(path))} {complaint}; its features are computed again"
    assert re.search(expected, message)
    assert "\n" not in message
    assert passes == [4]
    assert contents(cached) == contents(written)
    sound = load_features(vgg_weights, few_parts, UNION, written)
    np.testing.assert_array_equal(features[3].parts["validation"], sound[3].parts["validation"])


def test_swapped_files_and_damage_all_over_are_repaired_in_one_pass(
    vgg_weights, few_parts, written, cached, passes, caplog
):
    first, third = folder_of(1, cached), folder_of(3, cached)
    names = ["target-00000.npy", "auxiliary-00000.npy"]
    contents_of = [(first / name).read_bytes() for name in names]
    for name, content in zip(names, reversed(contents_of), strict=True):
        (first / name).write_bytes(content)
    for folder in (first, third):
        flip(2000)(folder / "test-00002.npy")
    load_features(vgg_weights, few_parts, UNION, cached)
    named = [first / name for name in names] + [f / "test-00002.npy" for f in (first, third)]
    assert len(caplog.records) == 4
    assert all(str(path) in caplog.text for path in named)
    assert passes == [4, 4, 2]
    assert contents(cached) == contents(written)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"{}", "a digit"])
def test_a_damaged_manifest_is_named_and_made_again(
    vgg_weights, few_parts, written, cached, caplog, content
):
    path = folder_of(1, cached) / "manifest.json"
    if content is None:
        path.unlink()
    elif content == "a digit":
        scale = json.loads(path.read_text())["scales"][0]
        path.write_text(path.read_text().replace(f"{scale!r}", f"{scale * 2!r}"))
    else:
        path.write_bytes(content)
    load_features(vgg_weights, few_parts, UNION, cached)
    assert f"{path} is {'missing' if content is None else 'damaged'}; it is made" in caplog.text
    # On one machine calibration repeats itself to the bit, so the shards are still good.
    assert contents(cached) == contents(written)
    assert len(caplog.records) == 1


def test_features_under_another_calibration_are_not_used(
    vgg_weights, few_parts, cached, monkeypatch, caplog
):
    path = folder_of(1, cached) / "manifest.json"
    path.unlink()
    monkeypatch.setattr(extraction, "CALIBRATION_IMAGES", 3)
    features = load_features(vgg_weights, few_parts, {1: CHANNELS}, cached)
    assert len(caplog.records) == 1 + 12
    square = np.square(np.float64(features[1].parts["auxiliary"][:3])).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(square, 1, rtol=1e-3)  # two roundings of float16


def test_too_little_disk_space_is_noticed_before_the_pass(
    vgg_weights, few_parts, tmp_path, monkeypatch, passes
):
    # Forty images of 32 x 32 pixels with three channels of two bytes: 240 KiB.
    needed = 40 * 32 * 32 * 3 * 2
    usage = types.SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 0 MiB and .* 0 MiB free; give another --cache_dir"):
        load_features(vgg_weights, few_parts, {1: CHANNELS}, tmp_path)
    assert passes == [COUNT]  # the calibration
    usage.free = needed
    load_features(vgg_weights, few_parts, {1: CHANNELS}, tmp_path)


def test_values_that_are_not_finite_are_refused(vgg_weights, few_parts, tmp_path):
    weights = changed_first_layer(vgg_weights, bias={5: np.nan})
    with pytest.raises(UserError, match="weights embedded give values that are not finite"):
        load_features(weights, few_parts, UNION, tmp_path)
    assert not contents(tmp_path)


def test_an_unknown_type_is_refused(vgg_weights, few_parts, tmp_path):
    with pytest.raises(UserError, match="'float64'; allowed are"):
        load_features(vgg_weights, few_parts, UNION, tmp_path, dtype="float64")
    assert not contents(tmp_path)


def test_the_manifest_says_what_the_folder_is(vgg_weights, few_parts, written):
    manifest = json.loads((folder_of(3, written) / "manifest.json").read_text())
    assert manifest["layer_name"] == "conv2_1"
    assert (manifest["channels"], manifest["dtype"]) == ([7, 99], "float16")
    assert manifest["weights"] == vgg_weights.fingerprint
    assert (manifest["data"], manifest["image_size"]) == (few_parts.fingerprint, 32)
    assert manifest["rows_per_shard"] == 4
    assert len(manifest["scales"]) == len(manifest["peaks"]) == 2


def test_progress_is_told_but_nothing_is_logged(vgg_weights, few_parts, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "privynet_jax")
    load_features(vgg_weights, few_parts, {1: (0,)}, tmp_path)
    assert "extracting features" in capsys.readouterr().err
    assert not caplog.records
