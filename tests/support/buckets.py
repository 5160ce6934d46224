"""A bucket in memory that `etils.epath` reaches in earnest: gs:// by fsspec, without network."""

import importlib.util

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem


class MemoryBuckets(MemoryFileSystem):
    """Files whose paths begin with gs://, kept apart from fsspec's own memory."""

    protocol = ("gcs", "gs")
    store = {}  # noqa: RUF012 - fsspec's way of sharing files between instances
    pseudo_dirs = [""]  # noqa: RUF012


def memory_bucket(name):
    """An empty folder of a new bucket."""
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("with TensorFlow installed, epath asks it for gs://, which needs a network")
    fsspec.register_implementation("gcs", MemoryBuckets, clobber=True)
    return epath.Path(f"gs://{name}/cache")
