"""Trainings in progress, kept by Orbax: a lost machine costs minutes, not the run.

A checkpoint has a section for every training of a piece of work, finished or not; each is a flat
dictionary of arrays. All are written together, in the background, now and then. Results are not
kept here: when the work is done its checkpoint is removed.

    kept = Checkpoint(folder, every_seconds=300)
    arrays = kept.sections.get("0001-cloud")  # of an earlier run, or None
    kept.sections["0001-cloud"] = arrays
    if kept.is_due():
        kept.save()

`save_tree` and `load_tree` keep finished networks.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from privynet_jax.backbone.weights.checkpoint import by_name, to_numpy
from privynet_jax.errors import first_line
from privynet_jax.platform.files import damaged_if

_LOG = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]


class Checkpoint:
    """The checkpoint of one piece of work, in a folder of its own.

    Attributes:
        sections: training -> its arrays, or what makes them when they are to be written.
    """

    def __init__(self, folder: Path, every_seconds: float) -> None:
        """Reads what an earlier run of this very work left; writes nothing before `save`."""
        self._folder, self._every = folder.absolute(), every_seconds
        self._saved_at = time.monotonic()
        self._manager: ocp.CheckpointManager | None = None
        self._begun = 0
        self.sections: dict[str, Arrays | Callable[[], Arrays]] = dict(self._restored())

    def next_section(self, name: str) -> str:
        """Returns what the next training is called: the same work has the same ones in order."""
        self._begun += 1
        return f"{self._begun:04d}-{name}"

    def is_due(self) -> bool:
        """Whether the last checkpoint, or the start, is an interval ago."""
        return time.monotonic() - self._saved_at >= self._every

    def arrays(self, section: str) -> Arrays | None:
        """Returns a section's arrays, or None where there is none."""
        found = self.sections.get(section)
        return found() if callable(found) else found

    def save(self, *, wait: bool = False) -> None:
        """Writes all sections in the background, or waits until they are on the disk."""
        named = {
            f"{section}/{name}": np.asarray(array)
            for section in self.sections
            for name, array in (self.arrays(section) or {}).items()
        }
        # Orbax takes no empty trees or arrays, and slashes are its own.
        kept = {name.replace("/", ":"): array for name, array in named.items() if array.size}
        empty = {n: [str(x.dtype), *x.shape] for n, x in named.items() if not x.size}
        manager = self._opened()
        manager.save(
            (manager.latest_step() or 0) + 1,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave({"nothing": np.zeros(1), **kept}),
                about=ocp.args.JsonSave({"sha256": _digest(named), "empty": empty}),
            ),
            force=True,
        )
        if wait:
            manager.wait_until_finished()
        self._saved_at = time.monotonic()

    def discard(self) -> None:
        """Removes everything: the work is done, or what is kept is of no use."""
        self.sections = {}
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restored(self) -> dict[str, dict[str, np.ndarray]]:
        """The newest sections that are sound, or none."""
        if not self._folder.exists():
            return {}
        try:
            manager = self._opened()
            newest = manager.latest_step()
            return {} if newest is None else self._read(manager, newest)
        except Exception as error:  # Orbax and TensorStore raise whatever fits
            told = "the checkpoint %s cannot be used (%s); its networks are trained anew"
            _LOG.warning(told, self._folder, first_line(error))
            self.discard()
            return {}

    def _opened(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            alone = jax.process_index()
            self._manager = ocp.CheckpointManager(
                self._folder,
                item_handlers={
                    "arrays": ocp.PyTreeCheckpointHandler(),
                    "about": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1,
                    create=False,
                    cleanup_tmp_directories=True,
                    # Processes train different cells, so Orbax must not wait for the others.
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        primary_host=alone,
                        active_processes={alone},
                        barrier_sync_key_prefix=f"{self._folder.name}-{alone}",
                    ),
                ),
            )
        return self._manager

    def _read(self, manager: ocp.CheckpointManager, step: int) -> dict[str, dict[str, np.ndarray]]:
        tree = manager.item_metadata(step)["arrays"].tree
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeRestore(restore_args=to_numpy(tree)),
                about=ocp.args.JsonRestore(),
            ),
        )
        named = {name.replace(":", "/"): np.asarray(x) for name, x in restored["arrays"].items()}
        named.pop("nothing")
        for name, (dtype, *shape) in restored["about"]["empty"].items():
            named[name] = np.zeros(shape, dtype)
        if _digest(named) != restored["about"]["sha256"]:
            raise ValueError("its arrays are not those that were saved")
        sections: dict[str, dict[str, np.ndarray]] = {}
        for name, array in named.items():
            section, _, own = name.partition("/")
            sections.setdefault(section, {})[own] = array
        return sections


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Returns a tree's arrays by their paths, as in "params/Dense_0/bias"."""
    return {name: np.ascontiguousarray(leaf) for name, leaf in by_name(params).items()}


def save_tree(folder: Path, tree: Any) -> None:
    """Writes nested dictionaries of arrays; the folder appears whole, or stays as it is."""
    folder = folder.absolute()  # Orbax takes no relative paths
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        partial = Path(scratch) / "checkpoint"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial, args=ocp.args.PyTreeSave(tree))
        try:
            os.replace(partial, folder)
        except OSError:
            # Another process may have trained the same networks, and been faster.
            if not folder.exists():
                raise


def load_tree(folder: Path, kind: str) -> Any:
    """Returns what `save_tree` was given, as NumPy arrays; UserError says that it is no `kind`."""
    folder = folder.absolute()
    with damaged_if(folder, kind, Exception):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = ocp.args.PyTreeRestore(restore_args=to_numpy(tree))
            return jax.tree.map(np.asarray, checkpointer.restore(folder, args=args))


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
