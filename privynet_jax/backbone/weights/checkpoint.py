"""The project's own checkpoints of weights: one Orbax directory, input transform included.

`experiments.port_weights` writes them, `weights` reads them. The parameters are stored as
`forward` applies them, with "preprocessing" among them, so that converted weights can never meet
another network's input transform. Beside Orbax' files lies `weights.json`: their backbone, what
they were converted from, their fingerprint, and the sha256 of every file.

    save_checkpoint(Path("vgg16"), weights.params, weights.layout, weights.fingerprint)
    checkpoint = open_checkpoint(Path("vgg16"))
    checkpoint.tensors["conv1_1/kernel"].load()
"""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from privynet_jax.backbone.backbones import BACKBONES, DEFAULT, Backbone
from privynet_jax.backbone.weights.stored_tensor import StoredTensor
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_files, verify_files
from privynet_jax.platform.files import check_is_new, damaged_if

_FORMAT = "privynet_jax weights 1"
_KIND = "checkpoint"
_MANIFEST = "weights.json"
_CONVERT_ANEW = "delete the folder and convert the weights again"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been opened; no tensor was read yet.

    Attributes:
        tensors: every stored array by its path in the pytree, such as "conv1_1/kernel".
        layout: title of the layout that the weights were converted from.
        fingerprint: of the parameters when they were saved.
        backbone: whose parameters they are.
    """

    tensors: dict[str, StoredTensor]
    layout: str
    fingerprint: str
    backbone: Backbone


def save_checkpoint(
    folder: Path,
    params: Mapping[str, Mapping[str, np.ndarray]],
    layout: str,
    fingerprint: str,
    backbone: str = DEFAULT,
) -> None:
    """Writes parameters to a new folder, which appears whole or not at all.

    Args:
        folder: must be new or empty; folders above it are made.
        params: NumPy arrays, as `weights.load_weights` gives them.
        layout: title of the layout that they were converted from.
        fingerprint: `weights.fingerprint_of(params)`.
        backbone: name of what they are the parameters of.

    Raises:
        UserError: the folder holds something.
    """
    check_is_new(folder)
    folder = folder.absolute()  # Orbax takes no relative paths
    folder.parent.mkdir(parents=True, exist_ok=True)
    tree = {name: dict(group) for name, group in params.items()}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        partial = Path(scratch) / "checkpoint"
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
        os.replace(partial, folder)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a checkpoint that `save_checkpoint` wrote.

    Returns:
        Its description; `StoredTensor.load` reads all arrays at the first call.

    Raises:
        UserError: the folder is no checkpoint, another program's, or damaged.
    """
    folder = folder.absolute()
    manifest = _verified_manifest(folder)
    # Orbax and TensorStore raise whatever fits, from KeyError to ValueError.
    with damaged_if(folder, _KIND, Exception):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    read = functools.cache(lambda: _restored(folder, tree))
    tensors = {_name(path): _stored(_name(path), leaf, read) for path, leaf in leaves}
    layout, fingerprint = (str(manifest.get(name)) for name in ("layout", "fingerprint"))
    return Checkpoint(tensors, layout, fingerprint, BACKBONES[manifest["backbone"]])


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
        path, "description of weights", ValueError, KeyError, TypeError, AttributeError
    ):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, expected {_FORMAT!r}")
        if manifest["backbone"] not in BACKBONES:
            raise ValueError(f"its backbone is {manifest['backbone']!r}")
        files = dict(manifest["files"])
    verify_files(folder, files, _CONVERT_ANEW)
    return manifest


def _restored(folder: Path, tree: Any) -> dict[str, np.ndarray]:
    with damaged_if(folder, _KIND, Exception):
        # Without this, Orbax would put the arrays where they were when they were saved.
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = ocp.args.PyTreeRestore(restore_args=to_numpy)
            restored = checkpointer.restore(folder, args=args)
    leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _stored(name: str, leaf: Any, read: Any) -> StoredTensor:
    shape = getattr(leaf, "shape", None)
    dtype = np.dtype(leaf.dtype).name if getattr(leaf, "dtype", None) is not None else "object"
    return StoredTensor((-1,) if shape is None else tuple(shape), dtype, lambda: read()[name])
