"""One layer of the feature cache: its address, its manifest, and which of its shards there are.

    layer = CachedLayer(root, weights, parts, num_layers=4, channels=(3, 17), dtype="float16")
    layer.read_manifest() or layer.write_manifest(coding)
    for unit in units_of(parts):
        if layer.find(unit):
            layer.write(unit, stored)

`feature_cache` drives several of them through one pass of the network.
"""

import logging
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.images.folders import is_private
from privynet_jax.images.parts import Parts
from privynet_jax.platform.digests import read_sealed, sealed, sha256_of_json
from privynet_jax.platform.files import is_remote, write_shared
from privynet_jax.platform.rows.coding import Coding
from privynet_jax.platform.rows.shards import (
    DamagedShardError,
    Opener,
    Shard,
    ShardedRows,
    ShardFolder,
)

# Raised whenever another version would give other bytes for the same address.
_VERSION = 3
_MANIFEST, _COMPLETE = "manifest.json", "complete"
MISSING = "is missing"
# Of one shard of a VGG's largest output, 64 channels of float16 as large as the image.
_SHARD_BYTES = 2**27
_LOG = logging.getLogger(__name__)


class Unit(NamedTuple):
    """Rows of one part that are computed, written and verified together, in each layer's folder."""

    part: str
    index: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def file_name(self) -> str:
        """Of the shard that holds them."""
        return f"{self.part}-{self.index:05d}.npy"


def units_of(parts: Parts) -> list[Unit]:
    """Returns all rows of all parts, in order."""
    step = _rows_per_shard(parts.image_size)
    return [
        Unit(name, index, start, min(start + step, len(part)))
        for name, part in parts.items()
        for index, start in enumerate(range(0, len(part), step))
    ]


def _rows_per_shard(image_size: int) -> int:
    """A power of two by the image size alone, so that all layers have shards of the same rows."""
    fitting = max(1, _SHARD_BYTES // (image_size**2 * 64 * 2))
    return 2 ** (fitting.bit_length() - 1)


class CachedLayer:
    """The stored features of one layer and its channels."""

    def __init__(
        self,
        root: epath.Path,
        weights: PretrainedWeights,
        parts: Parts,
        num_layers: int,
        channels: tuple[int, ...],
        dtype: str,
        scratch: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        """Derives the address, a folder in `root`; a bucket's shards are read from `scratch`."""
        self.channels, self.dtype, self._scratch = channels, dtype, scratch
        topology = Topology(num_layers, channels, weights.backbone.name)
        shape = topology.representation_shape(parts.image_size)
        self._shapes = {name: (len(part), *shape) for name, part in parts.items()}
        self._rows_per_shard = _rows_per_shard(parts.image_size)
        self._identity: dict[str, Any] = {
            "version": _VERSION,
            "backbone": topology.backbone,
            "weights": weights.fingerprint,
            "data": parts.fingerprint,
            "data_name": parts.name,
            "image_size": parts.image_size,
            "layer": num_layers,
            "layer_name": topology.layer.name,
            "channels": list(map(int, channels)),
            "dtype": dtype,
        }
        self._folder = root / sha256_of_json(self._identity)[:32]
        self._is_private = is_private(parts.name) and not is_remote(root)
        # A process once had all shards: if one is missing, it was lost.
        self.was_complete = (self._folder / _COMPLETE).exists()
        self.shards: dict[Unit, Shard] = {}  # that were verified or written

    def read_manifest(self) -> bool:
        """Takes the coding from the disk; False if there is none, after naming a damaged one."""
        path, problem, is_unchanged = self._folder / _MANIFEST, "damaged", False
        try:
            manifest, is_unchanged = read_sealed(path)
        except FileNotFoundError:
            problem = "missing"
        except (OSError, ValueError):
            pass
        if not is_unchanged:
            if problem == "damaged" or self.was_complete:
                _LOG.warning("the feature cache's file %s is %s; it is made again", path, problem)
                path.unlink(missing_ok=True)
            return False
        scales, peaks = np.float32(manifest["scales"]), np.float32(manifest["peaks"])
        self.coding = Coding(self.dtype, scales, peaks)
        scratch = None
        if self._scratch is not None:
            scratch = Path(self._scratch.name) / self._folder.name
            scratch.mkdir(exist_ok=True)
        # The manifest is part of it: features under another calibration are other features.
        self._shard_folder = ShardFolder(self._folder, sha256_of_json(manifest), scratch)
        return True

    def write_manifest(self, coding: Coding) -> None:
        """Writes the coding down; if another process was faster, that one's counts."""
        values = {"scales": coding.scales.tolist(), "peaks": coding.peaks.tolist()}
        manifest = {**self._identity, "rows_per_shard": self._rows_per_shard, **values}
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._is_private:
            os.chmod(self._folder, 0o700)
        write_shared(self._folder / _MANIFEST, [sealed(manifest).encode()], replace=False)
        if not self.read_manifest():
            raise OSError(f"{self._folder / _MANIFEST} cannot be read back")

    def path(self, unit: Unit) -> epath.Path:
        """Returns where a unit's shard is, or would be."""
        return self._shard_folder.path(unit.file_name)

    def nbytes(self, unit: Unit) -> int:
        """Returns the size of a unit's rows."""
        return math.prod(self._shape(unit)) * np.dtype(self.dtype).itemsize

    def find(self, unit: Unit) -> str:
        """Verifies a unit's shard, and returns what is wrong with it: "" if nothing is."""
        try:
            shard = self._shard_folder.find(unit.file_name, self._shape(unit), self.dtype)
        except DamagedShardError as error:
            return str(error)
        if shard is None:
            return MISSING
        self.shards[unit] = shard
        return ""

    def write(self, unit: Unit, stored: np.ndarray) -> None:
        """Writes a unit's shard."""
        if stored.shape != self._shape(unit) or stored.dtype != self.dtype:
            raise ValueError(f"Expected {self._shape(unit)} {self.dtype}, got {stored.shape}")
        self.shards[unit] = self._shard_folder.write(unit.file_name, stored)

    def mark_complete(self) -> None:
        """Remembers on disk that all shards were there."""
        if not self.was_complete:
            write_shared(self._folder / _COMPLETE, [b""])

    def rows(self, opener: Opener) -> dict[str, ShardedRows]:
        """Returns part name -> stored rows; all shards must be known."""
        step, kept, rows = self._rows_per_shard, self._scratch, {}
        for name, shape in self._shapes.items():
            shards = [self.shards[unit] for unit in sorted(self.shards) if unit.part == name]
            rows[name] = ShardedRows(shards, step, shape, self.dtype, opener, keep=kept)
        return rows

    def _shape(self, unit: Unit) -> tuple[int, ...]:
        return (unit.count, *self._shapes[unit.part][1:])
