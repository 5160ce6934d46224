"""The device's program: equal to the trunk, alone with JAX and NumPy, and wary of its files."""

import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from support import package_samples as samples

from privynet_jax.backbone import vgg_program
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.deployment.device import device_nn


def program(topology):
    layers = VGG16.cuts[: topology.num_layers]
    described = [{"name": layer.name, "stride": layer.stride} for layer in layers]
    return vgg_program.network({"layers": described})


@pytest.mark.parametrize(
    ("topology", "size"),
    [
        (Topology(1, (63, 0)), 32),
        (Topology(4, (90, 3, 17)), 45),  # pooling drops a row
        (Topology(7, tuple(range(0, 256, 5))), 64),
        (Topology(13, tuple(range(500, 0, -5))), 32),  # 2 x 2 pixels are left, fewer than a kernel
    ],
    ids=lambda value: value.layer.name if isinstance(value, Topology) else str(value),
)
def test_network_equals_the_trunk(vgg_weights, topology, size):
    images = samples.images(2, size)
    full, _ = VGGTrunk(VGG16, topology.num_layers).apply({"params": vgg_weights.params}, images)
    expected = np.asarray(full)[..., topology.channels]
    assert (expected.max(axis=(0, 1, 2)) > 0).sum() >= 2
    network = program(topology)
    samples.assert_close(network(local_params(vgg_weights.params, topology), images), expected)


def test_products_are_not_rounded_on_accelerators(vgg_weights):
    topology = Topology(13, (0,))
    spec = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    network = jax.jit(program(topology))
    text = network.lower(local_params(vgg_weights.params, topology), spec).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 13
    for line in convolutions:
        assert line.count("#stablehlo<precision HIGHEST>") == 2


def test_safetensors_are_read_as_their_library_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a/kernel": rng.normal(size=(3, 3, 2, 5)).astype(np.float16),
        "a/bias": rng.normal(size=5).astype(np.float32),
        "b/order": np.array([2, 0, 1], np.int32),
        "b/none": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"written": "by a test"})
    read = device_nn.read_weights(path)
    flat = {f"{group}/{kind}": array for group in read for kind, array in read[group].items()}
    assert flat.keys() == tensors.keys()
    for name, array in tensors.items():
        assert flat[name].dtype == array.dtype
        np.testing.assert_array_equal(flat[name], array)


def test_safetensors_by_hand(tmp_path):
    header = json.dumps({"x/y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
    numbers = struct.pack("<3f", 9.0, 1.5, -2.0)
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    np.testing.assert_array_equal(device_nn.read_weights(path)["x"]["y"], [1.5, -2.0])


def test_the_digest_leaves_out_itself_and_nothing_else():
    settings = {"b": [1, 2.5], "a": "ü", "sha256": "x"}
    digest = device_nn.settings_digest(settings)
    assert digest == device_nn.settings_digest({"a": "ü", "b": [1, 2.5]})
    assert digest != device_nn.settings_digest({"a": "u", "b": [1, 2.5]})


def test_trial_images_tell_channels_apart(vgg_weights):
    """Each layer's channels respond to the made-up image, so wrong weights do not go unnoticed."""
    for num_layers, size in ((1, 32), (4, 32), (13, 32), (13, 64)):
        topology = Topology(num_layers, tuple(range(VGG16.cuts[num_layers - 1].channels)))
        network = jax.jit(program(topology))
        params = local_params(vgg_weights.params, topology)
        means = device_nn.trial(lambda images, n=network, p=params: n(p, images), size)
        assert means.shape == (topology.depth,)
        assert (means > 0).mean() > 0.4  # deep layers are sparse; a real image's are too
        assert len(np.unique(means[means > 0])) == (means > 0).sum()


def saved(path, array):
    np.save(path, array)
    return str(path)


def test_convert_takes_bytes_and_floats_in_batches(tmp_path):
    count = device_nn._BATCH + 3
    codes = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3)).astype(np.uint8)
    seen = []

    def run(images):
        assert images.dtype == np.float32
        seen.append(len(images))
        return images * 2

    out = str(tmp_path / "out.npy")
    device_nn.convert(run, saved(tmp_path / "in.npy", codes), out)
    assert seen == [device_nn._BATCH, 3]
    expected = codes.astype(np.float32) / np.float32(255) * 2
    np.testing.assert_array_equal(np.load(out), expected)
    device_nn.convert(run, saved(tmp_path / "in.npy", expected / 2), out)
    np.testing.assert_array_equal(np.load(out), expected)


@pytest.mark.parametrize("bad", [255.0, -0.1, np.nan])
def test_convert_refuses_other_ranges(tmp_path, bad):
    images = np.zeros((2, 2, 2, 3), np.float32)
    images[1, 1, 1, 2] = bad
    with pytest.raises(device_nn.PackageError, match=r"beyond \[0, 1\]"):
        device_nn.convert(lambda x: x, saved(tmp_path / "in.npy", images), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
