"""The feature cache in many hands: stopped, shared by processes and threads, and in a bucket."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.small_cache import CHANNELS, COUNT, UNION, contents, folder_of

from privynet_jax.backbone.features import feature_cache
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.errors import UserError
from privynet_jax.images.parts import PART_NAMES
from privynet_jax.platform.rows.shards import ShardFolder

pytestmark = pytest.mark.usefixtures("small_shards")


# Another process that fills the same cache. It waits for somebody else before it writes, and tells
# how many units it computed.
PROCESS = """
import random, sys, time
from pathlib import Path
import numpy as np
from privynet_jax.backbone.features import cached_layer, feature_cache
from privynet_jax.images.parts import PART_NAMES, Part, Parts
from privynet_jax.backbone.weights.sources import load_weights

inputs, weights_dir, folder, seed, mark, other = sys.argv[1:]
random.seed(int(seed))
cached_layer._SHARD_BYTES = 4 * 32 * 32 * 64 * 2
arrays = np.load(inputs)
parts = {name: Part(arrays[name], np.zeros(len(arrays[name]), np.int32)) for name in PART_NAMES}
parts = Parts(**parts, class_names=("any",), name="few", fingerprint="few")
write, units = feature_cache._write, []

def write_and_tell(results, unit):
    Path(mark).touch()
    deadline = time.monotonic() + 60
    while not Path(other).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    write(results, unit)
    units.append(unit)

feature_cache._write = write_and_tell
weights = load_weights(cache_dir=Path(weights_dir))
feature_cache.load_features(weights, parts, {1: (0, 5, 40), 3: (7, 99)}, folder, in_company=True)
print(len(units))
"""


def start(few_parts, test_data_dir, folder, *arguments):
    inputs = folder.with_name("images.npz")
    if not inputs.exists():
        np.savez(inputs, **{name: part.images for name, part in few_parts.items()})
    command = [sys.executable, "-c", PROCESS, str(inputs), str(test_data_dir / "weights")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, str(folder), *map(str, arguments)], **pipes)


def test_two_processes_share_the_work(few_parts, written, tmp_path, test_data_dir):
    folder = tmp_path / "cache"
    marks = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(few_parts, test_data_dir, folder, index, marks[index], marks[1 - index])
        for index in range(2)
    ]
    units = []
    for process in processes:
        output, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        units.append(int(output))
    assert contents(folder) == contents(written)
    # Twelve units in all, in two orders; some are in the hands of both at once.
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_in_the_middle_leaves_whole_shards_to_resume_from(
    vgg_weights, few_parts, written, tmp_path, monkeypatch, passes, caplog, error
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
    done = contents(tmp_path)
    assert sum(name.endswith(".npy") for name in done) == 5
    left = folder_of(1, tmp_path) / ".x.npy.privynet-abc"  # as a kill leaves it
    left.write_bytes(b"half")
    os.utime(left, (left.stat().st_mtime - 24 * 3601,) * 2)  # more than a day ago
    passes.clear()
    load_features(vgg_weights, few_parts, UNION, tmp_path)
    assert passes == [2, *[4, 4, 2] * 3]  # the third unit lacked one of its two layers
    assert contents(tmp_path) == contents(written)
    assert done.items() <= contents(tmp_path).items()
    assert not caplog.records  # nothing was damaged, and nothing lost


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
