"""The feature cache: right values, and whatever is missing or damaged is named and repaired."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from support.buckets import memory_bucket

from privynet_jax.backbone.features import cached_layer, extraction, feature_cache
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.weights.sources import fingerprint_of
from privynet_jax.errors import UserError
from privynet_jax.images.parts import PART_NAMES, Part
from privynet_jax.platform.row_views import ChosenChannels
from privynet_jax.platform.shards import ShardFolder

CHANNELS = (0, 5, 40)
UNION = {1: CHANNELS, 3: (7, 99)}
COUNT = 10  # images per part, in shards of 4: twelve shards per layer

# Another process that fills the same cache. It tells which rows it computes, and can wait for
# somebody else or kill itself before any of them.
PROCESS = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from privynet_jax.backbone.features import cached_layer, feature_cache
from privynet_jax.images.parts import PART_NAMES, Part, Parts
from privynet_jax.backbone.weights.sources import load_weights

inputs, weights_dir, folder, index, count, mark, other = sys.argv[1:]
cached_layer._SHARD_BYTES = 4 * 32 * 32 * 64 * 2
arrays = np.load(inputs)
parts = {name: Part(arrays[name], np.zeros(len(arrays[name]), np.int32)) for name in PART_NAMES}
parts = Parts(**parts, class_names=("any",), name="few", fingerprint="few")
write, units = feature_cache._write, []

def write_and_tell(results, unit):
    if mark == "kill" and len(units) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if mark != "kill":
        Path(mark).touch()
        deadline = time.monotonic() + 60
        while not Path(other).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    write(results, unit)
    units.append(unit)

feature_cache._write = write_and_tell
weights = load_weights(cache_dir=Path(weights_dir))
feature_cache.load_features(
    weights, parts, {1: (0, 5, 40), 3: (7, 99)}, folder, share=(int(index), int(count))
)
print(len(units))
"""


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Four images of 32 x 32 pixels per shard, wherever this file calls the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_layer, "_SHARD_BYTES", 4 * 32 * 32 * 64 * 2)
        yield


@pytest.fixture(scope="module")
def few_parts(small_parts):
    """Ten real images per part: enough wherever the values do not matter."""
    parts = {
        name: Part(part.images[:COUNT], part.labels[:COUNT]) for name, part in small_parts.items()
    }
    return dataclasses.replace(small_parts, **parts, name="few", fingerprint="few")


@pytest.fixture(scope="module")
def written(vgg_weights, few_parts, tmp_path_factory):
    """A finished cache of `UNION` that nobody changes."""
    folder = tmp_path_factory.mktemp("written")
    load_features(vgg_weights, few_parts, UNION, folder)
    return folder


@pytest.fixture
def cached(written, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "cache"))


@pytest.fixture
def bucket(tmp_path):
    """A folder gs://.../cache in memory, another one for every test."""
    return memory_bucket(tmp_path.name)


@pytest.fixture
def passes(monkeypatch):
    """The number of images of each pass of VGG16, calibration included."""
    counts = []
    call = extraction.BatchedPass.__call__

    def spy(self, images):
        counts.append(len(images))
        return call(self, images)

    monkeypatch.setattr(extraction.BatchedPass, "__call__", spy)
    return counts


def contents(folder):
    """Relative path -> bytes of all files, temporary ones included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def folder_of(layer, cache_dir):
    for path in (cache_dir / "features").iterdir():
        if json.loads((path / "manifest.json").read_text())["layer"] == layer:
            return path
    raise AssertionError(f"no folder of layer {layer}")


def changed_first_layer(weights, **changes):
    """Weights whose conv1_1 has its bias at channel 5 replaced."""
    bias = np.array(weights.params["conv1_1"]["bias"])
    bias[5] = changes["bias"]
    params = {**weights.params, "conv1_1": {**weights.params["conv1_1"], "bias": bias}}
    return dataclasses.replace(weights, params=params, fingerprint=fingerprint_of(params))


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
    other_weights = changed_first_layer(vgg_weights, bias=0.1)
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
        content[place if place < 0 else min(place, len(content) - 1)] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES = {
    "byte of the header": (flip(70), "does not begin with the expected header"),
    "byte of the data": (flip(1000), "does not match its checksum"),
    "byte of the digest": (flip(-5), "does not match its checksum"),
    "truncation": (lambda path: os.truncate(path, 999), r"ends after 999 of \d+ bytes"),
    "empty": (lambda path: os.truncate(path, 0), r"ends after 0 of \d+ bytes"),
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


@pytest.mark.parametrize(
    "content",
    [None, b"", b'{"sha256": {', b"\xff\xfe", b"[]", b"{}", b'{"sha256": 7}', "a digit"],
)
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


def start(few_parts, test_data_dir, folder, *arguments):
    inputs = folder.with_name("images.npz")
    if not inputs.exists():
        np.savez(inputs, **{name: part.images for name, part in few_parts.items()})
    command = [sys.executable, "-c", PROCESS, str(inputs), str(test_data_dir / "weights")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, str(folder), *map(str, arguments)], **pipes)


def test_a_killed_run_is_resumed_with_what_it_had_done(
    vgg_weights, few_parts, written, tmp_path, test_data_dir, passes, caplog
):
    folder = tmp_path / "cache"
    with start(few_parts, test_data_dir, folder, 0, 1, "kill", "") as killed:
        _, complaints = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, complaints
    done = contents(folder)
    assert 0 < sum(name.endswith(".npy") for name in done) < 24
    left = folder_of(1, folder) / f".x.npy.{os.uname().nodename}.{killed.pid}.12345678.abc"
    left.write_bytes(b"half")
    os.utime(left, (left.stat().st_mtime - 3600,) * 2)  # an hour ago
    load_features(vgg_weights, few_parts, UNION, folder)
    # Five of twelve units were written, in order, before the signal.
    assert passes == [2, *[4, 4, 2] * 2]
    assert contents(folder) == contents(written)
    assert done.items() <= contents(folder).items()
    assert not caplog.records  # nothing was damaged, and nothing lost


def test_two_processes_share_the_work(few_parts, written, tmp_path, test_data_dir):
    folder = tmp_path / "cache"
    marks = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(few_parts, test_data_dir, folder, index, 2, marks[index], marks[1 - index])
        for index in range(2)
    ]
    units = []
    for process in processes:
        output, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        units.append(int(output))
    assert contents(folder) == contents(written)
    # Twelve units in all; each may repeat at the seams what the other had in hand.
    assert 12 <= sum(units) <= 12 + 6
    assert min(units) >= 3


def test_threads_of_one_process_fill_one_cache(vgg_weights, few_parts, written, tmp_path):
    found = []

    def load():
        found.append(load_features(vgg_weights, few_parts, UNION, tmp_path))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path) == contents(written)
    for features in found:
        np.testing.assert_array_equal(features[1].parts["test"], found[0][1].parts["test"])


@pytest.mark.parametrize("share", [(1, 1), (-1, 2), (0, 0)])
def test_an_impossible_share_is_refused(vgg_weights, few_parts, tmp_path, share):
    with pytest.raises(ValueError, match="0 <= index < count"):
        load_features(vgg_weights, few_parts, {1: (0,)}, tmp_path, share=share)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_in_the_middle_leaves_whole_shards_to_resume_from(
    vgg_weights, few_parts, written, tmp_path, monkeypatch, passes, error
):
    write = ShardFolder.write
    calls = iter(range(5))

    def fail_at_the_sixth(self, name, rows):
        if next(calls, None) is None:
            raise error
        return write(self, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "write", fail_at_the_sixth)
        with pytest.raises(error):
            load_features(vgg_weights, few_parts, UNION, tmp_path)
    assert sum(name.endswith(".npy") for name in contents(tmp_path)) == 5
    passes.clear()
    load_features(vgg_weights, few_parts, UNION, tmp_path)
    assert passes == [2, *[4, 4, 2] * 3]  # the third unit lacked one of its two layers
    assert contents(tmp_path) == contents(written)


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
    weights = changed_first_layer(vgg_weights, bias=np.nan)
    with pytest.raises(UserError, match="weights embedded give values that are not finite"):
        load_features(weights, few_parts, UNION, tmp_path)
    assert not contents(tmp_path)


def test_an_unknown_type_is_refused(vgg_weights, few_parts, tmp_path):
    with pytest.raises(UserError, match="'float64'; allowed are"):
        load_features(vgg_weights, few_parts, UNION, tmp_path, dtype="float64")
    assert not contents(tmp_path)


def test_a_bucket_serves_as_well(vgg_weights, few_parts, written, bucket, passes, caplog):
    expected = load_features(vgg_weights, few_parts, UNION, written)
    features = load_features(vgg_weights, few_parts, UNION, str(bucket))
    assert passes == [COUNT, *[4, 4, 2] * 4]
    stored = {
        f"features/{folder.name}/{path.name}": path.read_bytes()
        for folder in (bucket / "features").iterdir()
        for path in folder.iterdir()
    }
    assert stored == contents(written)
    again = load_features(vgg_weights, few_parts, UNION, bucket)
    assert len(passes) == 13
    path = bucket / "features" / folder_of(1, written).name / "test-00001.npy"
    path.write_bytes(path.read_bytes()[:-50])
    healed = load_features(vgg_weights, few_parts, UNION, bucket)
    assert passes[13:] == [4]
    [message] = [record.getMessage() for record in caplog.records]
    assert f"{path} ends after" in message
    for found in (features, again, healed):
        for layer in UNION:
            for name in PART_NAMES:
                np.testing.assert_array_equal(found[layer].parts[name], expected[layer].parts[name])


def test_copies_of_a_buckets_shards_go_when_the_features_do(
    vgg_weights, few_parts, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(feature_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(feature_cache, "_HELD_BYTES", 0)
    features = load_features(vgg_weights, few_parts, {1: CHANNELS}, bucket)
    [scratch] = tmp_path.iterdir()
    test = features[1].parts["test"]
    del features
    assert test[[9]].any()  # rows keep the copies alive
    assert len(list(scratch.rglob("*.npy"))) == 12
    del test
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["gs", "s3", "nowhere"])
def test_a_bucket_that_cannot_be_reached_ends_in_one_line(
    vgg_weights, few_parts, monkeypatch, scheme
):
    for package in ("gcsfs", "s3fs", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
    place = f"{scheme}://some-bucket-of-nobody/cache"
    if scheme == "gs":  # what epath says without gcsfs, whatever other tests have registered

        def refuse(*_, **__):
            raise ImportError("Please install gcsfs to access Google Storage")

        monkeypatch.setattr(feature_cache.epath, "Path", refuse)
    with pytest.raises(UserError, match=rf"{place} cannot be reached .*; for gs:// install") as e:
        load_features(vgg_weights, few_parts, UNION, place)
    assert "\n" not in str(e.value)


def test_a_local_folder_that_cannot_be_made_says_so_itself(vgg_weights, few_parts, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        load_features(vgg_weights, few_parts, UNION, tmp_path / "file" / "cache")


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
