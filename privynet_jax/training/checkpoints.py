"""Groups of cells in training, kept by Orbax: a lost machine costs minutes, not the run.

A group that trains for longer than an interval saves itself now and then, in the background:
the networks that it has finished, and parameters and optimiser of the one in training. Arrays have
a leading axis of cells, not of devices, so that another number of devices can continue as well.
Results are not kept here but by `store`; when a group is done its checkpoints are removed.

    kept = GroupCheckpoint(folder, every_seconds=300)
    progress = kept.restore()  # None at first
    if kept.is_due():
        kept.save(progress)
"""

import dataclasses
import hashlib
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingProgress:
    """How far a group has come.

    Attributes:
        finished: task -> the trained parameters, as leaves [cells, ...] of its pytree.
        task: the task in training; empty between two.
        step: how many of its steps are done.
        state: leaves [cells, ...] of its `training.State`.
    """

    finished: dict[str, list[np.ndarray]]
    task: str = ""
    step: int = 0
    state: list[np.ndarray] = dataclasses.field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays by a name that tells where they belong."""
        trees = {"state": self.state, **{f"finished/{k}": v for k, v in self.finished.items()}}
        return {
            f"{name}/{index:05d}": leaf
            for name, leaves in trees.items()
            for index, leaf in enumerate(leaves)
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], task: str, step: int) -> "TrainingProgress":
        """The inverse of `arrays`."""
        trees: dict[str, list[np.ndarray]] = {}
        for name in sorted(arrays):
            trees.setdefault(name.rpartition("/")[0], []).append(arrays[name])
        state = trees.pop("state", [])
        finished = {name.removeprefix("finished/"): leaves for name, leaves in trees.items()}
        return cls(finished, task, step, state)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where groups in training are kept, and how often.

    Attributes:
        folder: one for all groups of a work directory.
        every_seconds: between two checkpoints of a group.
    """

    folder: Path
    every_seconds: float

    def of_group(self, cells: Sequence[str]) -> "GroupCheckpoint":
        """Returns the checkpoint of a group, which belongs to exactly these cells in this order."""
        name = hashlib.sha256(" ".join(cells).encode()).hexdigest()[:16]
        return GroupCheckpoint(self.folder / name, self.every_seconds)


class GroupCheckpoint:
    """The checkpoints of one group, in a folder of its own."""

    def __init__(self, folder: Path, every_seconds: float) -> None:
        """Nothing is written before `save`.

        Args:
            folder: of this group alone; its name must say which cells and which order.
            every_seconds: how often `is_due` says so.
        """
        self._folder, self._every = folder.absolute(), every_seconds
        self._saved_at = time.monotonic()
        self._manager: ocp.CheckpointManager | None = None

    def is_due(self) -> bool:
        """Whether the last checkpoint, or the start, is an interval ago."""
        return time.monotonic() - self._saved_at >= self._every

    def save(self, progress: TrainingProgress, *, wait: bool = False) -> None:
        """Writes a checkpoint in the background, or waits until it is on the disk."""
        manager, arrays = self._opened(), progress.arrays()
        description = {"task": progress.task, "step": progress.step, "sha256": _digest(arrays)}
        manager.save(
            (manager.latest_step() or 0) + 1,
            args=ocp.args.Composite(
                # Orbax takes no empty tree, and slashes are its own.
                arrays=ocp.args.PyTreeSave({_escaped(name): x for name, x in arrays.items()}),
                progress=ocp.args.JsonSave(description),
            ),
            force=True,
        )
        if wait:
            manager.wait_until_finished()
        self._saved_at = time.monotonic()

    def restore(self) -> TrainingProgress | None:
        """Returns the newest checkpoint, or None where there is none that is sound."""
        if not self._folder.exists():
            return None
        try:
            manager = self._opened()
            newest = manager.latest_step()
            if newest is None:
                return None
            return self._read(manager, newest)
        except Exception as error:  # Orbax and TensorStore raise whatever fits
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _LOG.warning(
                "the checkpoint %s cannot be used (%s); its cells are trained from the beginning",
                self._folder,
                reason,
            )
            self.discard()
            return None

    def discard(self) -> None:
        """Removes the checkpoints: the group is done, or they are of no use."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _opened(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            alone = jax.process_index()
            self._manager = ocp.CheckpointManager(
                self._folder,
                item_handlers={
                    "arrays": ocp.PyTreeCheckpointHandler(),
                    "progress": ocp.JsonCheckpointHandler(),
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

    def _read(self, manager: ocp.CheckpointManager, step: int) -> TrainingProgress:
        stored = manager.item_metadata(step)["arrays"]
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored.tree)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeRestore(restore_args=to_numpy),
                progress=ocp.args.JsonRestore(),
            ),
        )
        arrays = {_unescaped(name): np.asarray(x) for name, x in restored["arrays"].items()}
        description: dict[str, Any] = restored["progress"]
        if _digest(arrays) != description["sha256"]:
            raise ValueError("its arrays are not those that were saved")
        return TrainingProgress.of_arrays(arrays, description["task"], description["step"])


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _escaped(name: str) -> str:
    return name.replace("/", ":")


def _unescaped(name: str) -> str:
    return name.replace(":", "/")
