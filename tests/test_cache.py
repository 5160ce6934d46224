"""The feature cache: right values, whole or absent, and every damage named with its remedy."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from privynet_jax import cache
from privynet_jax.cache import load_features
from privynet_jax.data import PART_NAMES, Part, as_float
from privynet_jax.errors import UserError
from privynet_jax.split import local_nn
from privynet_jax.topology import Topology
from privynet_jax.weights import fingerprint_of

CHANNELS = (0, 5, 40)
UNION = {1: CHANNELS}

# What a second process runs: it writes its whole cache, then waits for the other to have done so.
WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from privynet_jax import cache
from privynet_jax.data import PART_NAMES, Part, Parts
from privynet_jax.weights import load_weights

inputs, weights_dir, folder, mine, others = sys.argv[1:]
arrays = np.load(inputs)
parts = {name: Part(arrays[name], np.zeros(len(arrays[name]), np.int32)) for name in PART_NAMES}
write_arrays = cache._write_arrays

def write_and_wait(*arguments):
    write_arrays(*arguments)
    Path(mine).touch()
    deadline = time.monotonic() + 60
    while not Path(others).exists() and time.monotonic() < deadline:
        time.sleep(0.01)

cache._write_arrays = write_and_wait
cache.load_features(
    load_weights(cache_dir=Path(weights_dir)),
    Parts(**parts, class_names=("any",), name="few", fingerprint="few"),
    {1: (0, 5, 40)},
    Path(folder),
)
"""


@pytest.fixture(scope="module")
def few_parts(small_parts):
    """Ten real images per part: enough wherever the values do not matter."""
    parts = {name: Part(part.images[:10], part.labels[:10]) for name, part in small_parts.items()}
    return dataclasses.replace(small_parts, **parts, fingerprint="few")


@pytest.fixture(scope="module")
def written(vgg_weights, few_parts, tmp_path_factory):
    """A finished cache of `UNION` that nobody changes."""
    folder = tmp_path_factory.mktemp("written")
    load_features(vgg_weights, few_parts, UNION, folder)
    [found] = folder.iterdir()
    return found


@pytest.fixture
def cached(written, tmp_path):
    """A copy of it that a test may damage; its parent is the --cache_dir."""
    return Path(shutil.copytree(written, tmp_path / "cache" / written.name))


@pytest.fixture
def no_pass(monkeypatch):
    """Makes any pass of VGG16 an error."""

    def refuse(union):
        raise AssertionError("the cache should have served this")

    monkeypatch.setattr(cache, "extractor", refuse)


def with_weights(weights, params):
    return dataclasses.replace(weights, params=params, fingerprint=fingerprint_of(params))


def changed_first_layer(weights, *, scale=None, bias=None):
    """Weights whose conv1_1 has factors, or biases, replaced at some channels."""
    kernel, biases = (np.array(weights.params["conv1_1"][name]) for name in ("kernel", "bias"))
    for channel, factor in (scale or {}).items():
        kernel[..., channel] *= factor
        biases[channel] *= factor
    for channel, value in (bias or {}).items():
        biases[channel] = value
    return with_weights(weights, {**weights.params, "conv1_1": {"kernel": kernel, "bias": biases}})


def released(weights, layer, channels, part):
    """Local NN's output by single images, float64: another program than the extractor's."""
    local = jax.jit(local_nn(weights.params, Topology(layer, channels)))
    images = as_float(part.images)
    return np.concatenate(
        [np.float64(local(images[i : i + 10])) for i in range(0, len(images), 10)]
    )


def scale_of(representations):
    return 1 / np.sqrt(np.square(representations).mean(axis=(0, 1, 2)))


def assert_float16_of(stored, exact):
    """Stored values are the exact ones to half a unit of float16, plus float32's 1e-5 (split)."""
    assert (stored.shape, stored.dtype) == (exact.shape, np.float16)
    allowed = 2**-11 * np.abs(exact) + 2**-25 + 1e-5 * exact.max()
    assert (np.abs(np.float64(stored) - exact) <= allowed).all()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_cached_values_are_the_local_nns_in_unit_mean_square(vgg_weights, small_parts, tmp_path):
    union = {2: (7, 3, 60), 7: tuple(range(0, 256, 17))}
    union = {layer: tuple(sorted(channels)) for layer, channels in union.items()}
    features = load_features(vgg_weights, small_parts, union, tmp_path)
    assert list(features) == list(union)
    for layer, channels in union.items():
        assert (features[layer].num_layers, features[layer].channels) == (layer, channels)
        scale = scale_of(released(vgg_weights, layer, channels, small_parts.auxiliary))
        for name, part in small_parts.items():
            exact = released(vgg_weights, layer, channels, part) * scale
            assert_float16_of(features[layer].parts[name], exact)
        # Images of one part must not be another's: the parts above have different images.
        square = np.square(np.float64(features[layer].parts["auxiliary"])).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(square, 1, rtol=1e-3)  # two roundings of float16


def test_only_the_first_auxiliary_images_set_the_scale(
    vgg_weights, few_parts, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "CALIBRATION_IMAGES", 4)
    features = load_features(vgg_weights, few_parts, UNION, tmp_path)
    auxiliary = released(vgg_weights, 1, CHANNELS, few_parts.auxiliary)
    assert_float16_of(features[1].parts["auxiliary"], auxiliary * scale_of(auxiliary[:4]))
    assert np.abs(scale_of(auxiliary) / scale_of(auxiliary[:4]) - 1).max() > 0.01


def test_dead_channels_stay_zero_and_weak_ones_are_not_blown_up(vgg_weights, few_parts, tmp_path):
    weights = changed_first_layer(vgg_weights, scale={0: 0.0, 5: 1e-4}, bias={0: -1.0})
    features = load_features(weights, few_parts, UNION, tmp_path)
    exact = released(weights, 1, CHANNELS, few_parts.test)
    rms = 1 / scale_of(released(weights, 1, CHANNELS, few_parts.auxiliary)[..., 1:])
    # The floor is a hundredth of the mean over the three channels, of which one is dead.
    floor = cache.LEAST_RELATIVE_RMS * rms.sum() / 3
    assert rms[0] < floor
    stored = features[1].parts["test"]
    assert not stored[..., 0].any()
    assert_float16_of(stored[..., 1], exact[..., 1] / floor)
    assert_float16_of(stored[..., 2], exact[..., 2] / rms[1])


def test_batches_spread_over_two_devices_give_the_same(
    vgg_weights, few_parts, written, tmp_path, monkeypatch
):
    mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()[:2]), ("images",))
    shardings = [
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in [("images",), ()]
    ]
    monkeypatch.setattr(cache, "data_parallel", lambda: shardings)
    features = load_features(vgg_weights, few_parts, UNION, tmp_path)
    for name in PART_NAMES:
        expected = np.load(written / f"layer_01-{name}.npy")
        # A rounding of float32 may tip one of float16: one unit in its last place.
        np.testing.assert_allclose(features[1].parts[name], expected, rtol=2**-10, atol=2**-24)


@pytest.mark.usefixtures("no_pass")
def test_a_second_call_reads_what_the_first_wrote(vgg_weights, few_parts, cached):
    features = load_features(vgg_weights, few_parts, UNION, cached.parent)
    stored = features[1].parts["test"]
    assert isinstance(stored, np.memmap)
    np.testing.assert_array_equal(stored, np.load(cached / "layer_01-test.npy"))
    with pytest.raises(ValueError, match="read-only"):
        stored[0] = 0


def test_anything_else_gets_a_folder_of_its_own(vgg_weights, few_parts, cached):
    others = [
        (vgg_weights, few_parts, {1: (0, 5, 41)}),
        (vgg_weights, dataclasses.replace(few_parts, fingerprint="other"), UNION),
        (changed_first_layer(vgg_weights, scale={0: 2.0}), few_parts, UNION),
    ]
    for count, (weights, parts, union) in enumerate(others, start=2):
        load_features(weights, parts, union, cached.parent)
        assert len(list(cached.parent.iterdir())) == count


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.usefixtures("no_pass")
@pytest.mark.parametrize("damage", [flip_a_byte, cut, Path.unlink])
def test_a_damaged_array_is_named_with_its_remedy(vgg_weights, few_parts, cached, damage):
    path = cached / "layer_01-validation.npy"
    damage(path)
    expected = rf"{re.escape(str(path))} is missing or damaged; delete {re.escape(str(cached))} and"
    with pytest.raises(UserError, match=expected):
        load_features(vgg_weights, few_parts, UNION, cached.parent)


@pytest.mark.usefixtures("no_pass")
@pytest.mark.parametrize(
    "content", [None, b"", b'{"sha256": {', b"\xff\xfe", b"[]", b"{}", b'{"sha256": 7}']
)
def test_a_damaged_manifest_is_named_with_its_remedy(vgg_weights, few_parts, cached, content):
    path = cached / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    expected = rf"{re.escape(str(cached))} has no readable manifest\.json; delete .* and run again"
    with pytest.raises(UserError, match=expected):
        load_features(vgg_weights, few_parts, UNION, cached.parent)


def test_deleting_the_folder_as_told_heals_it(vgg_weights, few_parts, written, cached):
    shutil.rmtree(cached)
    load_features(vgg_weights, few_parts, UNION, cached.parent)
    assert json.loads((cached / "manifest.json").read_text()) == json.loads(
        (written / "manifest.json").read_text()
    )


def test_what_dead_processes_left_is_removed_and_nothing_else(vgg_weights, few_parts, cached):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    shutil.rmtree(cached)

    def leave(name):
        (cached.parent / name).mkdir()
        (cached.parent / name / "layer_01-test.npy").write_bytes(b"half")
        return name

    host, name = socket.gethostname(), f".{cached.name}"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        leave(f"{name}.{host}.{dead.pid}")
        # In a restarted container this process may have the number of the killed one.
        leave(f"{name}.{host}.{os.getpid()}")
        kept = [
            leave(f"{name}.{host}.{living.pid}"),
            leave(f"{name}.elsewhere.{dead.pid}"),
            leave(f"{name}.{host}.unknown"),
        ]
        features = load_features(vgg_weights, few_parts, UNION, cached.parent)
        living.communicate(b"\n")
    assert leftovers(cached.parent) == sorted(kept)
    assert len(features[1].parts["test"]) == 10


def test_two_processes_writing_at_once_both_succeed(
    few_parts, written, tmp_path, test_data_dir, monkeypatch
):
    inputs, folder = tmp_path / "images.npz", tmp_path / "cache"
    np.savez(inputs, **{name: part.images for name, part in few_parts.items()})
    marks = [str(tmp_path / "first"), str(tmp_path / "second")]
    common = [sys.executable, "-c", WRITER, str(inputs), str(test_data_dir / "weights")]
    writers = [
        subprocess.Popen([*common, str(folder), *order], stderr=subprocess.PIPE, text=True)
        for order in (marks, marks[::-1])
    ]
    for writer in writers:
        _, complaints = writer.communicate(timeout=120)
        assert writer.returncode == 0, complaints
    assert all(Path(mark).exists() for mark in marks)  # otherwise they were not writing at once
    assert [path.name for path in folder.iterdir()] == [written.name]


def test_losing_the_race_at_the_last_moment_is_no_error(
    vgg_weights, few_parts, written, tmp_path, monkeypatch
):
    rename = Path.rename

    def rename_too_late(self, target):
        shutil.copytree(written, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_too_late)
    features = load_features(vgg_weights, few_parts, UNION, tmp_path)
    expected = np.load(written / "layer_01-test.npy")
    np.testing.assert_array_equal(features[1].parts["test"], expected)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_in_the_middle_leaves_no_cache(
    vgg_weights, few_parts, tmp_path, monkeypatch, error
):
    batches = iter(range(2))

    def fail_at_the_third(*_):
        if next(batches, None) is None:
            raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(cache, "_check_finite", fail_at_the_third)
        load_features(vgg_weights, few_parts, UNION, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_space_is_noticed_before_anything_is_written(
    vgg_weights, few_parts, tmp_path, monkeypatch
):
    # Forty images of 32 x 32 pixels with three channels of two bytes: 240 KiB.
    needed = 40 * 32 * 32 * 3 * 2
    usage = types.SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 0 MiB and .* 0 MiB free; give another --cache_dir"):
        load_features(vgg_weights, few_parts, UNION, tmp_path)
    assert list(tmp_path.iterdir()) == []
    usage.free = needed
    load_features(vgg_weights, few_parts, UNION, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(vgg_weights, few_parts, tmp_path, value):
    weights = changed_first_layer(vgg_weights, bias={5: value})
    # NumPy warns where infinities are squared; the error is what people see.
    with (
        contextlib.suppress(RuntimeWarning),
        np.errstate(all="ignore"),
        pytest.raises(UserError, match="weights embedded give values that are not finite"),
    ):
        load_features(weights, few_parts, UNION, tmp_path)
    assert list(tmp_path.iterdir()) == []
