"""PyTorch's weight files, without PyTorch: the zip archives of today and the older format.

Both hold a pickle that describes tensors, and the tensors' numbers as plain bytes:

    zip     <name>/data.pkl, <name>/data/<key> for each storage, <name>/byteorder
    legacy  pickles of a magic number, a version, the machine's properties, the state dict and the
            keys of all storages; then each storage as its length (8 bytes) and its numbers

What is damaged raises ValueError, or what Python raises of itself.
"""

import io
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from privynet_jax.backbone.weights.conversion import StoredTensor
from privynet_jax.backbone.weights.torch_pickle import StorageRecord, TensorRecord, read_pickle

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_ITEM_BYTES = {"bfloat16": 2}  # NumPy knows the others


def read_archive(names: Collection[str], read: Callable[[str], bytes]) -> dict[str, StoredTensor]:
    """Returns the tensors of a zip archive written by `torch.save`, by the members' names."""
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(
            "neither PyTorch nor Keras wrote it, as it holds neither one data.pkl nor "
            "model.weights.h5"
        )
    [root] = roots
    is_big = f"{root}byteorder" in names and read(f"{root}byteorder") == b"big"
    state_dict = _state_dict(read_pickle(io.BytesIO(read(f"{root}data.pkl"))))
    return _tensors(state_dict, lambda storage: read(f"{root}data/{storage.key}"), "<>"[is_big])


def read_legacy(file: mmap.mmap) -> dict[str, StoredTensor]:
    """Returns the tensors of what `torch.save` wrote before PyTorch 1.6 (torchvision's vgg16)."""
    magic, version, _ = (read_pickle(file) for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        raise ValueError("a pickle, but not one written by torch.save")
    pickled = read_pickle(file)
    state_dict, storages = _state_dict(pickled), {}
    for tensor in _all_tensors(pickled):  # an optimiser's too: their numbers lie between the others
        storages[tensor.storage.key] = tensor.storage
    places = _legacy_places(file, read_pickle(file), storages)

    def read(storage: StorageRecord) -> bytes:
        place = places[storage.key]
        return file[place : place + storage.size * _item_bytes(storage.dtype)]

    return _tensors(state_dict, read, "<")


def _state_dict(pickled: Any) -> dict[str, TensorRecord]:
    """The tensors by name, also where a training loop put them beside an epoch or an optimiser."""
    entries = pickled if isinstance(pickled, dict) else {}
    wrapped = (entries[key] for key in _WRAPPERS if isinstance(entries.get(key), dict))
    entries = next(wrapped, entries)
    others = [name for name, value in entries.items() if not isinstance(value, TensorRecord)]
    if not entries or others:
        what = f"a dictionary with {', '.join(map(str, others))}" if others else "something else"
        raise ValueError(f"it holds {what}, not what model.state_dict() gives")
    return {str(name): value for name, value in entries.items()}


def _all_tensors(pickled: Any) -> Iterator[TensorRecord]:
    """Those in nested dictionaries and lists, which may contain each other or themselves."""
    waiting, seen = [pickled], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, TensorRecord):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one


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
    state_dict: Mapping[str, TensorRecord],
    read: Callable[[StorageRecord], bytes],
    byte_order: str,
) -> dict[str, StoredTensor]:
    def load(tensor: TensorRecord) -> np.ndarray:
        data, storage = read(tensor.storage), tensor.storage
        dtype = np.dtype(storage.dtype).newbyteorder(byte_order)
        if len(data) != storage.size * dtype.itemsize:
            raise ValueError(f"storage {storage.key} has another length than announced")
        strides = tuple(step * dtype.itemsize for step in tensor.strides)
        # NumPy refuses a view that reaches beyond its buffer.
        return np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, strides)

    return {
        name: StoredTensor(tensor.shape, tensor.storage.dtype, lambda tensor=tensor: load(tensor))
        for name, tensor in state_dict.items()
    }
