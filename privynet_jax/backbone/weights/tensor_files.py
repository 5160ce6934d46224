"""Weight files of every accepted format, opened as named tensors that are read only when asked for.

`weights` opens files here. A file's first bytes decide what it is; its suffix only helps to say
what is wrong with it. The formats' own readers are `keras_files` and `torch_files`.

    with open_tensors(Path("model.safetensors")) as tensors:
        tensors["features.0.weight"].shape  # (64, 3, 3, 3), and nothing was read yet
        tensors["features.0.weight"].load()
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import safetensors
from google.protobuf.message import DecodeError

from privynet_jax.backbone.weights.keras_files import ARCHIVE_MEMBER, open_hdf5, open_keras_archive
from privynet_jax.backbone.weights.stored_tensor import ZIP_ERRORS, StoredTensor
from privynet_jax.backbone.weights.torch_files import open_torch_archive, open_torch_legacy
from privynet_jax.errors import UserError
from privynet_jax.platform.files import damaged_if

ALLOWED = "Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors"

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"
_SUFFIXES = {
    ".h5": "HDF5 file",
    ".hdf5": "HDF5 file",
    ".keras": "Keras archive",
    ".pth": "PyTorch file",
    ".pt": "PyTorch file",
    ".safetensors": "safetensors file",
}
# safetensors' names of the types that it shares with NumPy.
_SAFETENSORS_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """Opens a weight file and hands over its tensors by name; they can be read until it is closed.

    Nothing that a file contains is ever run: pickles are interpreted by `torch_pickle`, and of a
    Keras archive only the weights are opened.

    Raises:
        UserError: the file is empty, of no accepted format, damaged, or asks for code or for
            other files. `StoredTensor.load` raises it as well, while the file is open.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise UserError(f"{path} is empty; give a complete weight file")
    with _opened(path, start) as tensors:
        yield tensors


def _opened(path: Path, start: bytes) -> contextlib.AbstractContextManager[dict[str, StoredTensor]]:
    if start.startswith(_HDF5_SIGNATURE):
        return open_hdf5(path)
    if start.startswith(_ZIP_SIGNATURE):
        return open_keras_archive(path) if _holds_keras(path) else open_torch_archive(path)
    # A pickle of protocol 2 or later; older ones have no signature.
    if start.startswith(b"\x80") or path.suffix in {".pth", ".pt"}:
        return open_torch_legacy(path)
    # Eight bytes of length, then JSON.
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _open_safetensors(path)
    if kind := _SUFFIXES.get(path.suffix):
        raise UserError(f"{path} is no {kind}: it begins with {start[:8]!r}; fetch it again")
    raise UserError(f"{path} is no weight file of a known kind; allowed: {ALLOWED}")


def _holds_keras(path: Path) -> bool:
    with damaged_if(path, "zip archive", *ZIP_ERRORS), zipfile.ZipFile(path) as archive:
        return ARCHIVE_MEMBER in archive.namelist()


def read_onnx(path: Path) -> dict[str, StoredTensor]:
    """Returns an ONNX model's initialisers by name, without running the model.

    Tensors stored outside the file are left out: the file's checksum says nothing about them.

    Raises:
        UserError: the file is not an ONNX model.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        model = None
    # Any bytes that happen to parse (an empty file does) make a model without a graph.
    if model is None or not model.HasField("graph"):
        raise UserError(
            f"{path} is not an ONNX model; allowed is an .onnx file holding VGG16; check the path"
        )
    external = onnx.TensorProto.EXTERNAL
    return {
        tensor.name: StoredTensor.of(onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_location != external
    }


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, StoredTensor]]:
    errors = (safetensors.SafetensorError, OSError)
    with contextlib.ExitStack() as stack:
        with damaged_if(path, "safetensors file", *errors):
            file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
            names = file.keys()
        tensors = {}
        for name in names:
            view = file.get_slice(name)
            stored = view.get_dtype()
            tensors[name] = StoredTensor(
                tuple(view.get_shape()),
                _SAFETENSORS_TYPES.get(stored, stored),
                lambda name=name: file.get_tensor(name),
            )
        yield tensors
