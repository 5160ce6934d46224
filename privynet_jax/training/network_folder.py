"""Trained amortised networks on disk: one Orbax checkpoint per layer in the work directory.

They are kept so that a continued run does not train again, and so that further subsets of a layer
can be scored later. They belong to the settings in the work directory's `config.json`.

    save_networks(workdir / "networks" / "layer_04", {"cloud": params, "attacker": params})
    networks = load_networks(workdir / "networks" / "layer_04")
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from privynet_jax.platform.files import damaged_if

_KIND = "checkpoint of amortised networks"


def save_networks(folder: Path, networks: Any) -> None:
    """Writes a layer's networks; the folder appears whole or not at all.

    Args:
        folder: kept as it is if it exists; folders above it are made.
        networks: a pytree of nested dictionaries of arrays.
    """
    folder = folder.absolute()  # Orbax takes no relative paths
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        partial = Path(scratch) / "checkpoint"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial, args=ocp.args.PyTreeSave(networks))
        try:
            os.replace(partial, folder)
        except OSError:
            # Another process may have trained the same networks, and been faster.
            if not folder.exists():
                raise


def load_networks(folder: Path) -> Any:
    """Returns what `save_networks` was given, as NumPy arrays.

    Raises:
        UserError: the folder is damaged.
    """
    folder = folder.absolute()
    with damaged_if(folder, _KIND, Exception):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
        # Without this, Orbax would put the arrays where they were when they were saved.
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = ocp.args.PyTreeRestore(restore_args=to_numpy)
            return jax.tree.map(np.asarray, checkpointer.restore(folder, args=args))
