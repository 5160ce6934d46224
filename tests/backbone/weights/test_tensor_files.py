"""Containers of tensors: what is written is read back, damaged and hostile files are refused."""

import io
import zipfile

import numpy as np
import onnx
import pytest
from support import weight_samples as samples
from support.tensor_reading import read_all, refusal
from support.weight_samples import pickled

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


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_what_was_written(name, tmp_path):
    given = {key: tensor for key, tensor in TENSORS.items() if key != "count"}
    found = read_all(WRITERS[name](tmp_path / name, given))
    assert found.keys() == given.keys()
    for key, (shape, dtype, array) in found.items():
        assert (shape, dtype) == (given[key].shape, given[key].dtype.name)
        assert array.dtype.name == dtype
        np.testing.assert_array_equal(array, given[key])


@pytest.mark.parametrize("write", [samples.write_torch_zip, samples.write_torch_legacy])
def test_what_training_loops_wrap_is_unwrapped(write, tmp_path):
    found = read_all(write(tmp_path / "last.pth", TENSORS, wrapped=samples.in_a_training))
    assert found.keys() == TENSORS.keys()
    for key, (_, _, array) in found.items():
        np.testing.assert_array_equal(array, TENSORS[key])
    prefixed = {f"_orig_mod.module.{key}": TENSORS["a/bias"] for key in "ab"}
    path = samples.write_safetensors(tmp_path / "model.safetensors", prefixed)
    assert read_all(path).keys() == {"a", "b"}


@pytest.mark.parametrize("name", WRITERS)
def test_content_counts_and_not_the_suffix(name, tmp_path):
    given = {"a": TENSORS["a/kernel"]}
    renamed = WRITERS[name](tmp_path / name, given).rename(tmp_path / "weights.bin")
    np.testing.assert_array_equal(read_all(renamed)["a"][2], given["a"])


@pytest.mark.parametrize("error", [MemoryError, AttributeError, OSError])
def test_what_the_caller_raises_is_not_the_files_fault(error, tmp_path):
    path = samples.write_safetensors(tmp_path / "model.safetensors", {"a": TENSORS["a/bias"]})
    with pytest.raises(error, match="mine"), open_tensors(path):
        raise error("mine")


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
