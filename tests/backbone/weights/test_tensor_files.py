"""Containers of tensors: what is written is read back, damaged and hostile files are refused."""

import io
import json
import os
import pickle
import struct
import zipfile

import h5py
import numpy as np
import onnx
import pytest
from support import weight_samples as samples
from support.weight_samples import Call, Global, pickled

from privynet_jax.backbone.weights.tensor_files import open_tensors, read_onnx
from privynet_jax.errors import UserError

TENSORS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a/bias": np.array([0.5, -1.5], np.float64),
    "constant": np.broadcast_to(np.float32(0.25), (3, 5)),
    "count": np.array(7, np.int64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}
WRITERS = {
    "weights.h5": samples.write_h5,
    "model.keras": samples.write_keras,
    "zip.pth": samples.write_torch_zip,
    "legacy.pth": samples.write_torch_legacy,
    "model.safetensors": samples.write_safetensors,
}


def read_all(path):
    with open_tensors(path) as tensors:
        return {name: (t.shape, t.dtype, np.array(t.load())) for name, t in tensors.items()}


def refusal(path):
    """The one line that a file is refused with, wherever in the reading that happens."""
    with pytest.raises(UserError) as error:
        read_all(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_what_was_written(name, tmp_path):
    given = {key: tensor for key, tensor in TENSORS.items() if key != "count"}
    found = read_all(WRITERS[name](tmp_path / name, given))
    assert found.keys() == given.keys()
    for key, (shape, dtype, array) in found.items():
        assert (shape, dtype) == (given[key].shape, given[key].dtype.name)
        assert array.dtype.name == dtype
        np.testing.assert_array_equal(array, given[key])


@pytest.mark.parametrize("name", WRITERS)
def test_content_counts_and_not_the_suffix(name, tmp_path):
    given = {"a": TENSORS["a/kernel"]}
    renamed = WRITERS[name](tmp_path / name, given).rename(tmp_path / "weights.bin")
    np.testing.assert_array_equal(read_all(renamed)["a"][2], given["a"])


def test_torch_files_of_python_2(tmp_path):
    path = samples.write_torch_legacy(tmp_path / "old.pth", TENSORS, python2=True)
    found = read_all(path)
    assert list(found) == list(TENSORS)
    np.testing.assert_array_equal(found["transposed"][2], TENSORS["transposed"])


@pytest.mark.parametrize("is_legacy", [False, True])
def test_pytorchs_own_files(is_legacy, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install '.[torch]'")
    base = torch.arange(40, dtype=torch.float32)
    module = torch.nn.BatchNorm2d(3)
    given = module.state_dict()
    given.update(view=base[3:23].reshape(4, 5).t()[1:4], shared=base, half=base.half())
    given["parameter"] = torch.nn.Parameter(base[:2])
    path = tmp_path / "torch.pth"
    torch.save(given, path, _use_new_zipfile_serialization=not is_legacy)
    found = read_all(path)
    assert list(found) == list(given)
    for name, tensor in given.items():
        np.testing.assert_array_equal(found[name][2], tensor.detach().numpy())


@pytest.mark.parametrize("name", WRITERS)
def test_files_cut_anywhere_are_refused(name, tmp_path):
    path = WRITERS[name](tmp_path / name, {"a": np.arange(600, dtype=np.float32)})
    content = path.read_bytes()
    for kept in (0.999, 0.9, 0.5, 0.1, 0.01):
        path.write_bytes(content[: int(kept * len(content))])
        refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)


# HDF5 is left out: damage there may crash its C library, and the tests with it.
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "model.safetensors"])
def test_damage_at_random_places_is_refused_or_harmless(name, tmp_path):
    path = WRITERS[name](tmp_path / name, {"a": np.arange(24, dtype=np.float32).reshape(4, 6)})
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            with open_tensors(path) as tensors:
                for tensor in tensors.values():
                    if np.prod(tensor.shape, dtype=float) < 1e6:
                        tensor.load()
        except UserError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("name", ["model.keras", "zip.pth"])
def test_changed_numbers_in_an_archive_are_noticed(name, tmp_path):
    numbers = np.arange(600, dtype=np.float32)
    path = WRITERS[name](tmp_path / name, {"a": numbers})
    content = path.read_bytes()
    place = content.index(numbers.tobytes())
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    assert "CRC" in refusal(path)


@pytest.mark.parametrize("name", ["a.h5", "a.keras", "a.pth", "a.safetensors", "a.npz", "a"])
def test_other_files_are_refused_with_what_is_allowed(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"<html>404 Not Found</html>")
    message = refusal(path)
    assert "begins with b'<html>40' and is damaged or no weight file" in message
    assert "of a known kind; allowed: Keras' .h5" in message


def test_other_zip_archives_are_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "neither PyTorch nor Keras wrote it" in refusal(path)


@pytest.mark.parametrize("member", ["model.weights.h5", "archive/data.pkl"])
def test_compressed_archives_are_refused(member, tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(10_000_000))
    assert "compressed" in refusal(path)


class Attack:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("container", ["plain", "legacy", "zip", "keys"])
def test_pickles_with_code_are_refused_and_never_run(container, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    attack = pickle.dumps({"features.0.weight": Attack(marker)}, 2)
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", attack)
    elif container == "keys":
        content = samples.write_torch_legacy(path, {"a": TENSORS["a/kernel"]}).read_bytes()
        path.write_bytes(content.replace(pickled(["94000000"]), attack))
    else:
        path.write_bytes((samples.LEGACY_HEAD if container == "legacy" else b"") + attack)
    assert "mkdir', which the weights of a state dict never need; nothing" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("is_legacy", [False, True])
def test_pytorch_files_without_a_state_dict_say_what_they_hold(is_legacy, tmp_path):
    path = tmp_path / "a.pth"
    for value, message in (([1, 2], "something else"), ({"epoch": 3, "b": 1}, "with epoch, b")):
        if is_legacy:
            path.write_bytes(samples.LEGACY_HEAD + pickled(value))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", pickled(value))
        assert message in refusal(path)
    path.write_bytes(pickled(5) + pickled(6) + pickled(7))
    assert "not one written by torch.save" in refusal(path)


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
    samples.write_keras(path, {"a": TENSORS["a/kernel"]}, config=evil, metadata="no JSON")
    assert list(read_all(path)) == ["a"]


def _write_onnx(path, tensors):
    graph = onnx.helper.make_graph([], "vgg", [], [])
    graph.initializer.extend(onnx.numpy_helper.from_array(t, n) for n, t in tensors.items())
    onnx.save(onnx.helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is a zip", b"\x89HDF\r\n" * 9])
def test_other_files_than_onnx_are_refused(tmp_path, content):
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.onnx is not an ONNX model"):
        read_onnx(path)


def test_tensors_outside_the_verified_file_are_not_read(tmp_path):
    path = _write_onnx(tmp_path / "vgg.onnx", {"inside": np.ones(3), "outside": np.ones(3)})
    model = onnx.load(path)
    model.graph.initializer[1].data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    assert list(read_onnx(path)) == ["inside"]


def test_writers_of_these_tests_write_what_pytorch_reads(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install '.[torch]'")
    for name in ("zip.pth", "legacy.pth"):
        loaded = torch.load(WRITERS[name](tmp_path / name, TENSORS), weights_only=True)
        for key, tensor in TENSORS.items():
            np.testing.assert_array_equal(loaded[key].numpy(), tensor)
    path = samples.write_torch_legacy(tmp_path / "old.pth", TENSORS, python2=True)
    loaded = torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    np.testing.assert_array_equal(loaded["a/kernel"].numpy(), TENSORS["a/kernel"])
