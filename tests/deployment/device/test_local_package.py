"""Packages: the chosen channels and no others, three ways to run them, and all that is refused."""

import inspect
import json
import re
import stat
import sys
import textwrap

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export
from support import package_samples as samples

from privynet_jax.backbone import vgg_program
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.deployment.device import device_nn, local_package
from privynet_jax.deployment.device.local_package import open_package

WEIGHTS, SETTINGS = device_nn.WEIGHTS, device_nn.SETTINGS


@pytest.fixture(scope="module")
def expected(vgg_weights, plans):
    """Image size -> the chosen channels of the whole network, in the plan's secret order."""
    outputs = {}
    for size, plan in plans.items():
        topology = plan.topology
        assert list(topology.channels) != sorted(topology.channels)
        trunk, images = VGGTrunk(VGG16, topology.num_layers), samples.images(5, size)
        full, _ = jax.jit(trunk.apply)({"params": vgg_weights.params}, images)
        outputs[size] = np.asarray(full)[..., topology.channels]
        assert (outputs[size].max(axis=(0, 1, 2)) > 0).all()
    return outputs


def by_stablehlo(folder, images):
    """As the package's README says."""
    params = {}
    for name, array in safetensors.numpy.load_file(folder / WEIGHTS).items():
        group, kind = name.split("/")
        params.setdefault(group, {})[kind] = array
    network = export.deserialize(bytearray((folder / "local_nn.stablehlo").read_bytes()))
    return np.asarray(network.call(params, images))


@pytest.mark.parametrize("size", [32, 64])
def test_in_process_and_stablehlo_equal_the_whole_networks_channels(folders, expected, size):
    folder, images = folders[size, "float32"], samples.images(5, size)
    package = open_package(folder)
    samples.assert_close(package.local(images), expected[size])
    samples.assert_close(by_stablehlo(folder, images), expected[size])
    samples.assert_close(by_stablehlo(folder, images[:2]), expected[size][:2])
    assert package.shape == expected[size].shape[1:]


@pytest.mark.parametrize("size", [32, 64])
def test_local_nn_py_alone_equals_the_whole_networks_channels(folders, expected, size, tmp_path):
    np.save(tmp_path / "images.npy", samples.images(5, size))
    program = str(folders[size, "float32"] / "local_nn.py")
    body = f"""
sys.argv = ["local_nn.py", "images.npy", "out.npy"]
runpy.run_path({program!r}, run_name="__main__")
sys.argv = ["local_nn.py"]
runpy.run_path({program!r}, run_name="__main__")
"""
    done = samples.run_alone(body, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"The package is whole and works: [^\n]*\n", done.stdout)
    samples.assert_close(np.load(tmp_path / "out.npy"), expected[size])


def test_float16_stores_half_the_bytes_and_is_close(folders, expected):
    for size in (32, 64):
        big, small = ((folders[size, dtype] / WEIGHTS) for dtype in ("float32", "float16"))
        arrays = safetensors.numpy.load_file(small)
        in_full = safetensors.numpy.load_file(big)
        assert {a.dtype.name for n, a in arrays.items() if n.startswith("conv")} == {"float16"}
        assert arrays["preprocessing/shift"].dtype == np.float32
        sizes = [
            sum(a.nbytes for n, a in all_.items() if "conv" in n) for all_ in (arrays, in_full)
        ]
        assert 2 * sizes[0] == sizes[1]
        assert small.stat().st_size < 0.52 * big.stat().st_size
        images = samples.images(5, size)
        found = open_package(folders[size, "float16"]).local(images)
        # A weight is off by 3e-4 of itself on average; measured were 1e-4 and 2e-4 of the largest.
        samples.assert_close(found, expected[size], 1e-3)
        samples.assert_close(by_stablehlo(folders[size, "float16"], images), np.asarray(found))


def test_one_stablehlo_for_all_platforms_without_weights_or_paths(folders):
    data = (folders[64, "float32"] / "local_nn.stablehlo").read_bytes()
    exported = export.deserialize(bytearray(data))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(size) for size in exported.in_avals[-1].shape] == ["batch", "64", "64", "3"]
    assert len(data) < 50_000  # the weights have 3.6 million bytes
    text = exported.mlir_module()
    # Neither folders nor names of this machine's source files, in the text and in the bytes.
    assert not re.search(r'"/\w|\.py\b', text)
    assert not re.search(rb"privynet_jax|device_nn|local_package|[.]py\b", data)


def test_the_readme_lists_the_arguments_in_order(folders):
    for dtype in local_package.DTYPES:
        folder = folders[32, dtype]
        network = export.deserialize(bytearray((folder / "local_nn.stablehlo").read_bytes()))
        text = (folder / "README.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| (\d+) \| `?([\w/]+)`? \| (\w+) (\[.*\]) \|$", text, re.MULTILINE)
        assert [int(number) for number, *_ in rows] == list(range(len(network.in_avals)))
        for (_, _, dtype_, shape), aval in zip(rows, network.in_avals, strict=True):
            assert dtype_ == aval.dtype.name
            assert shape == "[" + ", ".join(map(str, aval.shape)) + "]"
        names = [name for _, name, *_ in rows]
        assert set(names[:-1]) == set(safetensors.numpy.load_file(folder / WEIGHTS))
        paths = jax.tree_util.tree_flatten_with_path(network.in_tree.unflatten(names))[0]
        for path, name in paths[:-1]:
            assert jax.tree_util.keystr(path[2:], simple=True, separator="/") == name


@pytest.mark.parametrize("dtype", local_package.DTYPES)
def test_the_readme_s_code_runs_as_it_stands(folders, expected, dtype, monkeypatch):
    folder, images = folders[32, dtype], samples.images(5, 32)
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"\n\n((?:    .*\n|\n)+)", text)
    codes = [textwrap.dedent(block) for block in blocks if "representations = " in block]
    assert len(codes) == 2
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # other tests list the folder
    monkeypatch.delitem(sys.modules, "local_nn", raising=False)
    names = [{"images": images}, {"images": images}]
    for code, variables in zip(codes, names, strict=True):
        exec(code, variables)
        close = samples.TOLERANCE if dtype == "float32" else 1e-3
        samples.assert_close(variables["representations"], expected[32], close)
    scales = open_package(folder).scales
    samples.assert_close(names[0]["normalised"], np.asarray(names[0]["representations"]) * scales)
    del sys.modules["local_nn"]


@pytest.mark.parametrize("size", [32, 64])
def test_channels_that_are_not_released_are_nowhere_in_the_package(
    folders, plans, vgg_weights, size
):
    topology, folder = plans[size].topology, folders[size, "float32"]
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    used = VGG16.cuts[: topology.num_layers]
    transform = {f"preprocessing/{kind}" for kind in ("channel_order", "scale", "shift")}
    names = {f"{layer.name}/{kind}" for layer in used for kind in ("kernel", "bias")}
    assert arrays.keys() == names | transform
    full = vgg_weights.params[topology.layer.name]
    last = arrays[f"{topology.layer.name}/kernel"]
    columns = {last[..., i].tobytes() for i in range(last.shape[-1])}
    released = {full["kernel"][..., c].tobytes() for c in topology.channels}
    hidden = set(range(topology.layer.channels)) - set(topology.channels)
    assert columns == released
    assert not columns & {full["kernel"][..., c].tobytes() for c in hidden}
    biases = {float(full["bias"][c]) for c in hidden}
    assert biases.isdisjoint(arrays[f"{topology.layer.name}/bias"].tolist())
    # Nothing lies beside the arrays, and no other file has room for a channel, or names one.
    data = (folder / WEIGHTS).read_bytes()
    assert len(data) == 8 + int.from_bytes(data[:8], "little") + sum(
        array.nbytes for array in arrays.values()
    )
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *(WEIGHTS, SETTINGS, "local_nn.stablehlo", "local_nn.py", "local_network.py", "README.md"),
    }
    constants = export.deserialize(
        bytearray((folder / "local_nn.stablehlo").read_bytes())
    ).mlir_module()
    largest = max(re.findall(r"stablehlo.constant dense<(.*?)>", constants), key=len)
    assert len(largest) < 100
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    assert settings.keys() == {
        *("format", "version", "image_size", "shape", "layers", "class_names", "scales", "peaks"),
        *("release_seed", "plan_id", "sixteen_bit_max", "trial", "files", "sha256", "backbone"),
    }


def test_what_a_package_says(folders, plans):
    for (size, _), folder in folders.items():
        package, plan = open_package(folder), plans[size]
        assert (package.image_size, package.plan_id) == (size, plan.id)
        assert package.sixteen_bit_max == 4095
        # In a secret order, which numbers them in releases.
        assert package.class_names == plan.released_classes
        assert sorted(package.class_names) == sorted(plan.class_names)
        assert package.shape == plan.topology.representation_shape(size)
        for found, given in ((package.scales, plan.scales), (package.peaks, plan.peaks)):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.float32(given))
        assert re.fullmatch(r"[0-9a-f]{64}", package.release_seed)
        assert package.release_seed not in repr(package)
    assert len({open_package(folder).release_seed for folder in folders.values()}) == len(folders)


def test_the_programs_are_copies_of_the_library_s(folders):
    for folder in folders.values():
        for name, module in (("local_nn.py", device_nn), ("local_network.py", vgg_program)):
            assert (folder / name).read_text(encoding="utf-8") == inspect.getsource(module)


def test_nobody_else_may_read_a_package(folders):
    for folder in folders.values():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
