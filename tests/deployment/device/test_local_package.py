"""Packages: the chosen channels and no others, however they are run, and nothing more in them."""

import dataclasses
import json
import re
import stat

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support import package_samples as samples

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.deployment.cloud.cloud_graph import cloud_graph
from privynet_jax.deployment.device import local_package
from privynet_jax.deployment.device.local_package import (
    CLOUD_NETWORK,
    NETWORK,
    SETTINGS,
    open_package,
    trial_images,
)
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.device.program_archive import WHEEL
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.mechanisms.on_device import OnDevice
from privynet_jax.selection.secret_draw import class_ids


@pytest.fixture(scope="module")
def expected(vgg_weights, plans):
    """Image size -> the chosen channels of the whole network, in the plan's order, scaled."""
    outputs = {}
    for size, plan in plans.items():
        topology = plan.topology
        assert list(topology.channels) != sorted(topology.channels)
        trunk, images = VGGTrunk(VGG16, topology.num_layers), as_float(samples.images(5, size))
        full, _ = jax.jit(trunk.apply)({"params": vgg_weights.params}, images)
        outputs[size] = np.asarray(full)[..., topology.channels] * np.float32(plan.scales)
        assert (outputs[size].max(axis=(0, 1, 2)) > 0).all()
    return outputs


def by_onnx(folder, images):
    """As somebody without Python would."""
    return onnxruntime.InferenceSession(folder / NETWORK).run(None, {"images": images})[0]


@pytest.mark.parametrize("size", [32, 64])
def test_in_process_and_onnx_equal_the_whole_networks_channels(folders, expected, size):
    folder, images = folders[size, "float32"], samples.images(5, size)
    package = open_package(folder)
    samples.assert_close(package.represent(images), expected[size])
    samples.assert_close(by_onnx(folder, images), expected[size])
    samples.assert_close(by_onnx(folder, images[:2]), expected[size][:2])
    assert package.shape == expected[size].shape[1:]
    assert package.represent(images[:0]).shape == (0, *package.shape)
    package.check()


def test_a_package_adds_what_its_mechanism_says(vgg_weights, plans, folders, tmp_path):
    """To what the network gives, which is tested as ever; with this package's secret."""
    words, plan, pictures = "laplace:clip=0.5,scale=2", plans[32], samples.images(5, 32)
    noisy = dataclasses.replace(plan, mechanism=words, unit=3.0, epsilon=9.0)
    for name in ("one", "other"):
        write_package(tmp_path / name, noisy, vgg_weights.params)
    packages = [open_package(tmp_path / name) for name in ("one", "other")]
    packages[0].check()
    clean = open_package(folders[32, "float32"]).represent(pictures)
    one, other = (package.represent(pictures) for package in packages)
    device = OnDevice(words, 3.0, packages[0].release_seed)
    np.testing.assert_allclose(one, device.released(pictures, lambda images: clean), atol=1e-3)
    np.testing.assert_array_equal(packages[0].represent(pictures[2:3]), one[2:3])
    assert (one != other).mean() > 0.99
    assert packages[0].is_signed
    assert (one < 0).any()
    assert packages[0].milliseconds() > 0


def arrays_of(folder):
    """Every array that the network's file holds, in its order, and its size in bytes."""
    data = (folder / NETWORK).read_bytes()
    return [numpy_helper.to_array(a) for a in onnx.load_from_string(data).graph.initializer], len(
        data
    )


def test_float16_stores_half_the_bytes_and_is_close(folders, expected):
    for size in (32, 64):
        (small, few), (_, many) = (arrays_of(folders[size, t]) for t in ("float16", "float32"))
        *_, scale, shift = small[:3]
        assert {array.dtype.name for array in small[3:-1]} == {"float16"}
        assert {array.dtype.name for array in (scale, shift, small[-1])} == {"float32"}
        assert few < 0.52 * many
        images = samples.images(5, size)
        found = open_package(folders[size, "float16"]).represent(images)
        # A weight is off by 3e-4 of itself on average; measured were 1e-4 and 2e-4 of the largest.
        samples.assert_close(found, expected[size], 1e-3)


def test_the_readme_tells_the_network_s_inputs_and_outputs(folders):
    for folder in folders.values():
        network = onnxruntime.InferenceSession(folder / NETWORK)
        text = (folder / "README.md").read_text(encoding="utf-8")
        for told in (*network.get_inputs(), *network.get_outputs()):
            kind = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}[told.type]
            assert f"| `{told.name}` | {kind} [{', '.join(map(str, told.shape))}]" in text
        opset = onnx.load(folder / NETWORK).opset_import[0].version
        assert f"ONNX of opset {opset}" in text


@pytest.mark.parametrize("size", [32, 64])
def test_channels_that_are_not_released_are_nowhere_in_the_package(
    folders, plans, vgg_weights, size
):
    topology, folder = plans[size].topology, folders[size, "float32"]
    arrays, in_all = arrays_of(folder)
    # The transform (three arrays), kernel and bias of each layer, scales.
    assert len(arrays) == 3 + 2 * topology.num_layers + 1
    full = vgg_weights.params[topology.layer.name]
    last, bias = arrays[-3:-1]
    rows = {np.ascontiguousarray(kernel.transpose(1, 2, 0)).tobytes() for kernel in last}
    released = {full["kernel"][..., c].tobytes() for c in topology.channels}
    hidden = set(range(topology.layer.channels)) - set(topology.channels)
    assert rows == released
    assert not rows & {full["kernel"][..., c].tobytes() for c in hidden}
    assert {float(full["bias"][c]) for c in hidden}.isdisjoint(bias.tolist())
    # Beside the arrays nothing has room for a channel, or names one.
    assert in_all - sum(array.nbytes for array in arrays) < 100 * (len(arrays) + 10)
    assert {path.name for path in folder.iterdir()} == {
        *(NETWORK, CLOUD_NETWORK, SETTINGS, "privynet.pyz", "README.md", WHEEL),
    }
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    assert settings.keys() == {
        *("version", "image_size", "shape", "class_ids", "peaks", "release_seed", "plan_id"),
        *("mechanism", "unit", "reading", "trial", "files", "sha256"),
    }


def test_what_a_package_says(folders, plans):
    for (size, _), folder in folders.items():
        package, plan = open_package(folder), plans[size]
        assert (package.image_size, package.plan_id) == (size, plan.id)
        assert package.reading == Reading(4095)
        # In the order of secret ids, which numbers them in releases.
        assert package.class_ids == class_ids(plan.class_names, plan.selection.seed)
        assert [*package.class_ids.values()] == sorted(package.class_ids.values())
        *known, other = package.class_ids.values()
        assert package.names_of([*known, "ab" * 32]) == [
            *[*package.class_ids][:-1],
            "unknown abababab",
        ]
        assert package.names_of([other]) == [[*package.class_ids][-1]]
        assert package.shape == plan.topology.representation_shape(size)
        assert package.peaks.dtype == np.float32
        np.testing.assert_array_equal(package.peaks, np.float32(plan.peaks))
        assert re.fullmatch(r"[0-9a-f]{64}", package.release_seed)
        assert package.release_seed not in repr(package)
        assert package.cloud_network == cloud_graph(package.shape)
    assert len({open_package(folder).release_seed for folder in folders.values()}) == len(folders)


def test_a_package_may_know_more_classes_than_its_plan(vgg_weights, plans, folders, tmp_path):
    plan, known = plans[32], open_package(folders[32, "float32"]).class_ids
    write_package(tmp_path / "new", plan, vgg_weights.params, new_classes=("owl", "Eule"))
    found = open_package(tmp_path / "new").class_ids
    assert found.keys() == {*known, "owl", "Eule"}
    assert found.items() > known.items()  # so releases of both packages go together
    for new in (("dog",), ("owl", "owl"), ("",)):
        with pytest.raises(UserError, match=r"^new classes are .*; give names that differ"):
            write_package(tmp_path / "none", plan, vgg_weights.params, new_classes=new)
    assert not (tmp_path / "none").exists()


def test_trial_images_tell_channels_and_axes_apart(vgg_weights):
    """Each layer's channels respond to the made-up images, so what is wrong shows."""
    for num_layers, size in ((1, 32), (4, 32), (13, 32), (13, 64)):
        topology = Topology(num_layers, tuple(range(VGG16.cuts[num_layers - 1].channels)))
        network, images = jax.jit(local_nn(vgg_weights.params, topology)), trial_images(size)
        assert (images.dtype, images.shape) == (np.uint8, (8, size, size, 3))
        for n, y, x, c in ((0, 0, 0, 0), (3, 31, 17, 2), (7, 20, 29, 1)):  # as the README says
            assert images[n, y, x, c] == (x * y * (c + 1) // (n + 1) + 40 * n * c + 3 * y) % 251
        means = np.asarray(network(as_float(images))).mean((0, 1, 2))
        assert (means > 0).mean() > 0.4  # deep layers are sparse; a real image's are too
        assert len(np.unique(means[means > 0])) == (means > 0).sum()
        turned = np.asarray(network(as_float(images.transpose(0, 2, 1, 3)))).mean((0, 1, 2))
        assert np.abs(turned - means).max() > 10 * local_package._TOLERANCE * means.max()


def test_nobody_else_may_read_a_package(folders):
    for folder in folders.values():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
