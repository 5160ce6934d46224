"""The converter as a command: its table, its checkpoint, and input that it refuses."""

import functools
import hashlib
import json
import pickle
import re
import zipfile

import h5py
import numpy as np
import pytest
from support import weight_samples as samples

from experiments import port_weights
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.weights import sources
from privynet_jax.backbone.weights.sources import load_weights
from privynet_jax.platform.fetching import PublishedFile

LAYERS = samples.constant_layers()


@pytest.fixture
def port(run_command):
    """Runs the command; returns status, output and error."""
    return functools.partial(run_command, port_weights)


def test_a_converted_file_is_the_same_weights(port, tmp_path):
    path = samples.write_torch_legacy(tmp_path / "vgg.pth", samples.torchvision_tensors(LAYERS))
    status, out, _ = port(f"--from={path}", f"--to={tmp_path / 'new' / 'port'}")
    assert not status
    given, ported = (
        load_weights(str(p), cache_dir=tmp_path) for p in (path, tmp_path / "new" / "port")
    )
    assert (given.fingerprint, given.layout) == (ported.fingerprint, ported.layout)
    assert given.fingerprint in out
    assert "Recognised as torchvision's VGG16." in out
    assert "reordered to RGB, times 4.36681 4.46429 4.44444, plus -2.1179 -2.03571 -1.80444" in out


def test_the_table_has_every_tensor_of_every_layer(port, tmp_path):
    layers = dict(LAYERS)
    kernel, bias = samples.random_layers()["conv1_1"]
    layers["conv1_1"] = (kernel, bias)
    path = samples.write_h5(tmp_path / "vgg.h5", samples.keras_tensors(layers))
    _, out, _ = port(f"--from={path}", f"--to={tmp_path / 'port'}")
    rows = [line.split() for line in out.splitlines() if re.match(r"conv\d_\d/", line)]
    assert [row[0] for row in rows] == [
        f"{layer.name}/{kind}" for layer in VGG16.cuts for kind in ("kernel", "bias")
    ]
    name, shape, mean, std, digest = rows[0]
    assert (name, shape) == ("conv1_1/kernel", "3x3x3x64")
    # printed with six digits
    np.testing.assert_allclose(float(mean), kernel.astype("f8").mean(), rtol=1e-5)
    np.testing.assert_allclose(float(std), kernel.astype("f8").std(), rtol=1e-5)
    assert digest == hashlib.sha256(kernel.tobytes()).hexdigest()
    assert rows[-1][1:4] == ["512", "1.00000e-02", "0.00000e+00"]


def zipped(path, name, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def written(path, data):
    path.write_bytes(data)
    return path


def object_h5(folder):
    path = samples.write_h5(folder / "a.h5", samples.keras_tensors(LAYERS))
    name = "block1_conv1/block1_conv1_b_1:0"
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = np.array(["a"] * 64, h5py.string_dtype())
    return path


def renamed_bias(folder):
    tensors = samples.torchvision_tensors(LAYERS)
    tensors["features.0.beta"] = tensors.pop("features.0.bias")
    return samples.write_torch_zip(folder / "a.pth", tensors)


# Of each way to read a file, and of what is found there; the others are those of its room.
REFUSED = {
    "a folder": (lambda folder: folder, "is a mere folder"),
    "object dtype": (object_h5, "block1_conv1_b_1:0 has type object"),
    "code in zip": (
        lambda f: zipped(f / "a.pth", "a/data.pkl", pickle.dumps(samples.Hostile(f / "ran"), 2)),
        "asks for '.* mkdir'.* nothing of it was run",
    ),
    "code in legacy": (
        lambda f: written(
            f / "a.pth", samples.LEGACY_HEAD + pickle.dumps({"a": samples.Hostile(f / "ran")}, 2)
        ),
        "asks for '.* mkdir'.* nothing of it was run",
    ),
    "renamed tensor": (renamed_bias, r"missing features\.0\.bias; unknown features\.0\.beta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_weights_end_in_one_line_and_write_nothing(case, port, tmp_path):
    make, message = REFUSED[case]
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = port(f"--from={source}", f"--to={tmp_path / 'port'}")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert re.search(message, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_keras_file_with_another_md5(port, tmp_path, monkeypatch):
    folder = tmp_path / "keras-vgg16"
    folder.mkdir()
    (folder / "a.h5").write_bytes(b"not the published file")
    monkeypatch.setattr(sources, "KERAS_FILE", PublishedFile("http://127.0.0.1:1/a.h5", "0" * 32))
    status, _, err = port("--from=keras", f"--to={tmp_path / 'p'}", f"--cache_dir={tmp_path}")
    assert status == 1
    assert re.fullmatch(r"error: [^\n]*a\.h5 has MD5 \w{32}, but 0{32} is published[^\n]*\n", err)
    assert not (tmp_path / "p").exists()


def test_only_the_weights_of_a_keras_archive_with_code_are_read(port, tmp_path):
    lambdas = {"class_name": "Lambda", "config": {"function": f"os.mkdir('{tmp_path / 'ran'}')"}}
    path = tmp_path / "vgg.keras"
    samples.write_keras(path, samples.keras_3_tensors(LAYERS), config=json.dumps(lambdas))
    status, _, _ = port(f"--from={path}", f"--to={tmp_path / 'port'}")
    assert not status
    assert sorted(p.name for p in tmp_path.iterdir()) == ["port", "vgg.keras"]


def test_an_existing_folder_is_left_alone(port, tmp_path):
    (tmp_path / "mine").write_text("kept")
    for target in (tmp_path, tmp_path / "mine"):
        status, _, err = port("--from=never-read", f"--to={target}")
        assert status == 1
        assert "exists already" in err or "is not a folder" in err
    assert (tmp_path / "mine").read_text() == "kept"


def test_both_flags_are_needed(port):
    assert port("--from=embedded")[0] == 1
    assert "no --from is given" in port("--to=x")[2]
