"""Keras' weight files: HDF5, and the .keras archive that holds an HDF5 file.

`tensor_files` calls this room. HDF5 can point to other files (external links, external storage,
virtual data sets) and Keras' archives hold a description of the model that may carry code. Neither
is ever followed: only numbers stored in the file itself are read.
"""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from privynet_jax.backbone.weights.stored_tensor import ZIP_ERRORS, StoredTensor
from privynet_jax.errors import UserError
from privynet_jax.platform.files import damaged_if

ARCHIVE_MEMBER = "model.weights.h5"

# h5py turns the C library's errors into whichever exception seems to fit, even SystemError.
_H5PY_ERRORS = (Exception,)


@contextlib.contextmanager
def open_hdf5(path: Path, content: BinaryIO | None = None) -> Iterator[dict[str, StoredTensor]]:
    """Opens an HDF5 file and hands over its data sets by their paths inside it.

    Args:
        path: the file, or the one that the content comes from.
        content: an HDF5 file in memory, read instead.

    Raises:
        UserError: it is damaged or refers to other places than itself.
    """
    with contextlib.ExitStack() as stack:
        with damaged_if(path, "HDF5 file", *_H5PY_ERRORS):
            file = stack.enter_context(h5py.File(content or path, "r"))
            tensors = {name: _stored(path, dataset) for name, dataset in _datasets(path, file)}
        yield tensors


@contextlib.contextmanager
def open_keras_archive(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """Opens `ARCHIVE_MEMBER` in a .keras archive, and nothing else of it.

    Raises:
        UserError: the archive is damaged or compressed, or the weights are damaged.
    """
    with damaged_if(path, "Keras archive", *ZIP_ERRORS), zipfile.ZipFile(path) as archive:
        # Compressed members could unfold to any size; Keras stores them as they are.
        if archive.getinfo(ARCHIVE_MEMBER).compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path} is compressed, which Keras never does; save the model again")
        content = io.BytesIO(archive.read(ARCHIVE_MEMBER))
    with open_hdf5(path, content) as tensors:
        yield tensors


def _datasets(path: Path, file: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    links: list[tuple[str, object]] = []
    # This visits each group once, whatever circles the links make, and follows only hard links.
    file.visititems_links(lambda name, link: links.append((name, link)))
    if elsewhere := [name for name, link in links if not isinstance(link, h5py.HardLink)]:
        raise UserError(
            f"{path} refers to other places at {', '.join(elsewhere)}; "
            "such links are never followed: save the weights into one file"
        )
    items = [(name, file[name]) for name, _ in links]
    datasets = [(name, item) for name, item in items if isinstance(item, h5py.Dataset)]
    if outside := [name for name, item in datasets if item.is_virtual or item.external]:
        raise UserError(
            f"{path} keeps {', '.join(outside)} in other files; save the weights into one file"
        )
    return datasets


def _stored(path: Path, dataset: h5py.Dataset) -> StoredTensor:
    def load() -> np.ndarray:
        with damaged_if(path, "HDF5 file", *_H5PY_ERRORS):
            return np.asarray(dataset[()])

    # An empty data set has no shape; -1 fits nothing.
    shape = (-1,) if dataset.shape is None else dataset.shape
    return StoredTensor(shape, dataset.dtype.name, load)
