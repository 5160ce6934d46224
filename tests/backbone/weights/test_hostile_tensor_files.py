"""Files of tensors that mean harm: code, lies about sizes, and ways out of the file."""

import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pytest
from support import weight_samples as samples
from support.tensor_reading import read_all, refusal
from support.weight_samples import Call, Global, pickled

from privynet_jax.backbone.weights.tensor_files import open_tensors

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("container", ["plain", "legacy", "zip", "keys"])
def test_pickles_with_code_are_refused_and_never_run(container, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    attack = pickle.dumps({"features.0.weight": samples.Hostile(marker)}, 2)
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", attack)
    elif container == "keys":
        content = samples.write_torch_legacy(path, {"a": KERNEL}).read_bytes()
        path.write_bytes(content.replace(pickled(["94000000"]), attack))
    else:
        path.write_bytes((samples.LEGACY_HEAD if container == "legacy" else b"") + attack)
    assert "mkdir', which the weights of a state dict never need; nothing" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize(("offset", "shape", "strides"), [(0, (9,), (1,)), (5, (2, 2), (2, 2))])
def test_tensors_that_reach_beyond_their_storage_are_refused(offset, shape, strides, tmp_path):
    kind = Global("torch", "FloatStorage")
    storage = samples.Persistent("storage", kind, "0", "cpu", 8)
    tensor = Call(Global("torch._utils", "_rebuild_tensor"), storage, offset, shape, strides)
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled({"w": tensor}))
        archive.writestr("x/data/0", bytes(32))
    refusal(path)


@pytest.mark.parametrize("key", ["1", "../../secret", "/etc/hostname"])
def test_storages_come_from_the_archive_alone(key, tmp_path):
    storage = samples.Persistent("storage", Global("torch", "FloatStorage"), key, "cpu", 2)
    tensor = Call(Global("torch._utils", "_rebuild_tensor"), storage, 0, (2,), (1,))
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled({"w": tensor}))
    assert "no item named" in refusal(path)


def test_lying_safetensors_headers_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"

    def write(header, data=bytes(8), length=None):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    honest = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    write({"a": honest})
    assert read_all(path)["a"][0] == (2,)
    for lie in ({"shape": [3]}, {"data_offsets": [0, 80]}, {"data_offsets": [8, 0]}):
        write({"a": honest | lie})
        refusal(path)
    write({"a": honest, "b": honest})  # two tensors on the same bytes
    refusal(path)
    for length in (2**63, 2**40, 3):
        write({"a": honest}, length=length)
        refusal(path)


def test_hdf5_files_that_point_elsewhere_are_refused(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["numbers"] = np.ones(3)
    (tmp_path / "raw").write_bytes(bytes(64))
    path = tmp_path / "a.h5"

    def written(change):
        with h5py.File(path, "w") as file:
            file["fine"] = np.zeros(3)
            change(file)
        return refusal(path)

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "numbers", (3,))
        file.create_virtual_dataset("virtual", layout)

    def link(name, target):
        return lambda file: file.__setitem__(name, target)

    external = [(str(tmp_path / "raw"), 0, 24)]
    assert "at link;" in written(link("link", h5py.ExternalLink(str(secret), "numbers")))
    assert "at g/link;" in written(link("g/link", h5py.SoftLink("/fine")))
    assert "keeps virtual in" in written(virtual)
    outside = written(lambda file: file.create_dataset("raw", (3,), "f8", external=external))
    assert "keeps raw in" in outside


def test_hdf5_groups_that_contain_themselves_end(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("g")
        group["a"] = np.arange(3.0)
        for index in range(8):
            group[f"again{index}"] = file
    assert "g/a" in read_all(path)


def test_hdf5_types_that_are_no_numbers_are_left_unread(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["texts"] = np.array(["a", "b"], h5py.string_dtype())
        file["empty"] = h5py.Empty("f4")
        file["big_endian"] = np.arange(3, dtype=">f4")
    with open_tensors(path) as tensors:
        assert tensors["texts"].dtype == "object"
        assert tensors["empty"].shape == (-1,)
        assert tensors["big_endian"].dtype == "float32"
        np.testing.assert_array_equal(tensors["big_endian"].load(), [0, 1, 2])


def test_only_the_weights_of_a_keras_archive_are_opened(tmp_path):
    evil = json.dumps({"class_name": "Lambda", "config": {"function": "__import__('os')"}})
    path = tmp_path / "a.keras"
    samples.write_keras(path, {"a": KERNEL}, config=evil, metadata="no JSON")
    assert list(read_all(path)) == ["a"]
