"""The project's own checkpoints of weights: one Orbax directory, input transform included.

Beside Orbax' files lies `weights.json`: their backbone, what they were converted from, their
fingerprint, and the sha256 of every file.

    save_checkpoint(Path("vgg16"), weights.params, weights.layout, weights.fingerprint)
    open_checkpoint(Path("vgg16")).tensors["conv1_1/kernel"].load()
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from privynet_jax.backbone.backbones import BACKBONES, DEFAULT, Backbone
from privynet_jax.backbone.weights.conversion import StoredTensor
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_files, verify_files
from privynet_jax.platform.files import appears_whole, damaged_if

_FORMAT = "privynet_jax weights 1"
_KIND = "checkpoint"
_MANIFEST = "weights.json"


class Checkpoint(NamedTuple):
    """A checkpoint that has been opened; no tensor was read yet."""

    tensors: dict[str, StoredTensor]  # by path in the pytree, such as "conv1_1/kernel"
    layout: str  # title of the layout that the weights were converted from
    fingerprint: str  # of the parameters when they were saved
    backbone: Backbone


def save_checkpoint(
    folder: Path,
    params: Mapping[str, Mapping[str, np.ndarray]],
    layout: str,
    fingerprint: str,
    backbone: str = DEFAULT,
) -> None:
    """Writes parameters to a new folder, which appears whole or not at all.

    They are NumPy arrays, as `sources.load_weights` gives them, with their `fingerprint_of`, the
    title of the layout that they were converted from, and their backbone's name. UserError:
    something is in the way.
    """
    tree = {name: dict(group) for name, group in params.items()}
    with appears_whole(folder) as partial:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial, args=ocp.args.PyTreeSave(tree))
        manifest = {
            "format": _FORMAT,
            "backbone": backbone,
            "layout": layout,
            "fingerprint": fingerprint,
            "files": sha256_of_files(partial),
        }
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a checkpoint; the first `load` reads all arrays. UserError: it is none, or damaged."""
    folder = folder.absolute()  # Orbax takes no relative paths
    manifest = _verified_manifest(folder)

    @functools.cache
    def arrays() -> dict[str, np.ndarray]:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = ocp.args.PyTreeRestore(restore_args=to_numpy(tree))
            return by_name(checkpointer.restore(folder, args=args))

    # Orbax and TensorStore raise whatever seems to fit, from KeyError to ValueError.
    with damaged_if(folder, _KIND, Exception):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
        tensors = {}
        for name, leaf in by_name(tree).items():
            shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype).name
            tensor = StoredTensor(shape, dtype, lambda name=name: arrays()[name])
            tensors[name] = tensor.told_if_damaged(folder, _KIND)
    layout, fingerprint = (str(manifest.get(name)) for name in ("layout", "fingerprint"))
    return Checkpoint(tensors, layout, fingerprint, BACKBONES[manifest["backbone"]])


def to_numpy(tree: Any) -> Any:
    """Without this, Orbax would put arrays where they were when they were saved."""
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)


def by_name(tree: Any) -> dict[str, Any]:
    """Returns a tree's leaves by their paths, as in "params/Dense_0/bias"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _verified_manifest(folder: Path) -> dict[str, Any]:
    """Returns `weights.json`, after checking every file that it lists.

    TensorStore notices damage too, but in threads of its own, which print tracebacks.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        what = "checkpoint of something else" if (folder / "_METADATA").exists() else "mere folder"
        raise UserError(
            f"{folder} is a {what}, it has no {_MANIFEST}; give a folder that "
            "experiments.port_weights wrote, or a weight file"
        )
    with damaged_if(
        path, "description of weights", ValueError, LookupError, TypeError, RecursionError
    ):
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        if manifest["format"] != _FORMAT or manifest["backbone"] not in BACKBONES:
            raise ValueError(f"expected the format {_FORMAT!r} and a known backbone")
        files = dict(manifest["files"])
    verify_files(folder, files, "delete the folder and convert the weights again")
    return manifest
