"""PyTorch's weight files, without PyTorch: the zip archives of today and the older format.

`tensor_files` calls this room. Both formats hold a pickle that describes tensors, which
`torch_pickle` reads without running it, and the tensors' numbers as plain bytes:

    zip     <name>/data.pkl, <name>/data/<key> for each storage, <name>/byteorder
    legacy  pickles of a magic number, a version, the machine's properties, the state dict and the
            keys of all storages; then each storage as its length (8 bytes) and its numbers
"""

import contextlib
import io
import mmap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.backbone.weights.stored_tensor import ZIP_ERRORS, StoredTensor
from privynet_jax.backbone.weights.torch_pickle import (
    BrokenPickleError,
    StorageRecord,
    TensorRecord,
    UnsafePickleError,
    read_pickle,
)
from privynet_jax.errors import UserError
from privynet_jax.platform.files import damaged_if

_KIND = "PyTorch file"
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_ITEM_BYTES = {"bfloat16": 2}  # NumPy knows the others


@contextlib.contextmanager
def open_torch_archive(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """Opens a zip archive written by `torch.save`.

    Raises:
        UserError: it is damaged, holds no state dict, or its pickle asks for code.
    """
    with contextlib.ExitStack() as stack:
        with damaged_if(path, _KIND, *ZIP_ERRORS):
            archive = stack.enter_context(zipfile.ZipFile(path))
            root = _root(path, archive)
            state_dict = _state_dict(path, io.BytesIO(archive.read(f"{root}/data.pkl")))
            order_file = f"{root}/byteorder"
            is_big = order_file in archive.namelist() and archive.read(order_file) == b"big"

        def read(storage: StorageRecord) -> bytes:
            return archive.read(f"{root}/data/{storage.key}")

        yield _tensors(path, state_dict, read, ">" if is_big else "<")


@contextlib.contextmanager
def open_torch_legacy(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """Opens a file that `torch.save` wrote before PyTorch 1.6, such as torchvision's vgg16.

    Raises:
        UserError: it is damaged, holds no state dict, or its pickle asks for code.
    """
    with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as file:
        with damaged_if(path, _KIND, ValueError, KeyError, TypeError):
            magic, version, _ = (_read(path, file) for _ in range(3))
            if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
                raise ValueError("a pickle, but not one written by torch.save")
            state_dict = _state_dict(path, file)
            places = _legacy_places(file, _read(path, file), _storages(state_dict))

        def read(storage: StorageRecord) -> bytes:
            place = places[storage.key]
            return file[place : place + storage.size * _item_bytes(storage.dtype)]

        yield _tensors(path, state_dict, read, "<")


def _root(path: Path, archive: zipfile.ZipFile) -> str:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(
            f"{path} is a zip archive, but neither PyTorch nor Keras wrote it: it holds neither "
            "one data.pkl nor model.weights.h5; give what torch.save or model.save wrote"
        )
    # Compressed members could unfold to any size; PyTorch stores them as they are.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise UserError(f"{path} is compressed, which PyTorch never does; save it again")
    return pickles[0].removesuffix("/data.pkl")


def _read(path: Path, file: Any) -> Any:
    try:
        return read_pickle(file)
    except UnsafePickleError as error:
        raise UserError(
            f"{path} is refused: {error}, which the weights of a state dict never need; nothing of "
            "it was run; save model.state_dict() alone"
        ) from None
    except BrokenPickleError as error:
        raise ValueError(f"broken pickle, {error}") from None


def _state_dict(path: Path, file: Any) -> dict[str, TensorRecord]:
    found = _read(path, file)
    entries = found if isinstance(found, dict) else {}
    others = [name for name, value in entries.items() if not isinstance(value, TensorRecord)]
    if not entries or others:
        what = f"a dictionary with {', '.join(map(str, others))}" if others else "something else"
        raise UserError(f"{path} holds {what}, not a state dict; save model.state_dict() alone")
    return {str(name): value for name, value in entries.items()}


def _storages(state_dict: Mapping[str, TensorRecord]) -> dict[str, StorageRecord]:
    return {tensor.storage.key: tensor.storage for tensor in state_dict.values()}


def _legacy_places(
    file: mmap.mmap, keys: Any, storages: Mapping[str, StorageRecord]
) -> dict[str, int]:
    """Returns where each storage's numbers begin; the file lists them in the order of the keys."""
    places = {}
    place = file.tell()
    for key in keys:
        storage = storages[key]
        length = int.from_bytes(file[place : place + 8], "little")
        places[key] = place + 8
        place += 8 + length * _item_bytes(storage.dtype)
        if length != storage.size or place > len(file):
            raise ValueError(f"storage {key} is cut short or has another length than announced")
    if missing := storages.keys() - places.keys():
        raise ValueError(f"storages {', '.join(sorted(missing))} are missing")
    return places


def _item_bytes(dtype: str) -> int:
    return _ITEM_BYTES.get(dtype) or np.dtype(dtype).itemsize


def _tensors(
    path: Path,
    state_dict: Mapping[str, TensorRecord],
    read: Callable[[StorageRecord], bytes],
    byte_order: str,
) -> dict[str, StoredTensor]:
    def load(tensor: TensorRecord) -> np.ndarray:
        with damaged_if(path, _KIND, *ZIP_ERRORS, TypeError):
            return _array(tensor, read(tensor.storage), byte_order)

    return {
        name: StoredTensor(tensor.shape, tensor.storage.dtype, lambda tensor=tensor: load(tensor))
        for name, tensor in state_dict.items()
    }


def _array(tensor: TensorRecord, data: bytes, byte_order: str) -> np.ndarray:
    dtype = np.dtype(tensor.storage.dtype).newbyteorder(byte_order)
    if len(data) != tensor.storage.size * dtype.itemsize:
        raise ValueError(f"storage {tensor.storage.key} has another length than announced")
    strides = tuple(step * dtype.itemsize for step in tensor.strides)
    # NumPy refuses a view that reaches beyond its buffer.
    return np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, strides)
