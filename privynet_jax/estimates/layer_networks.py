"""The amortised networks of a layer: from the work directory, or trained now and kept there.

`amortised` trains one network; `scoring`, `fine_tuning` and `candidates` ask here for those that
they need.

    networks = trained(layer, sums, parts, by_name(tasks), depths, workdir / "networks", seed=0)
    networks[ATTACKER]  # params
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.errors import UserError
from privynet_jax.estimates import amortised
from privynet_jax.estimates.subsets import LayerSums
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import data_parallel
from privynet_jax.training.network_folder import load_networks, save_networks
from privynet_jax.training.tasks import CLOUD, Task

_LOG = logging.getLogger(__name__)
ATTACKER = "attacker"
# The pool's depths reach beyond those of the grid by this factor, on both sides.
_MARGIN = 1.5


def by_name(tasks: tuple[Task, Task]) -> dict[str, Task]:
    """Returns "cloud" and "attacker" -> task, of `amortised.layer_tasks`."""
    return dict(zip((CLOUD, ATTACKER), tasks, strict=True))


def trained(
    layer: LayerFeatures,
    sums: LayerSums,
    parts: Parts,
    tasks: Mapping[str, Task],
    depths: Sequence[int],
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Returns params of a layer's networks by name, from the folder or newly trained.

    Args:
        layer: the features, all channels.
        sums: of the layer.
        parts: images and labels.
        tasks: of the wanted networks, as `by_name` names them; no number of one network depends
            on whether the other is wanted.
        depths: of the grid; they decide which subsets the networks are trained on.
        folder: where networks are kept.
        seed: of the grid.

    Raises:
        UserError: training diverged.
    """
    kept = {name: folder / f"layer_{layer.num_layers:02d}_{name}" for name in tasks}
    found = {name: _kept_network(path) for name, path in kept.items() if path.exists()}
    missing = [name for name in tasks if found.get(name) is None]
    if not missing:
        return found
    key = amortised.layer_key(layer.num_layers, seed)
    channels = len(layer.channels)
    least = max(1, round(min(depths) / _MARGIN))
    most = min(channels, round(max(depths) * _MARGIN))
    pool = amortised.draw_pool(jax.random.fold_in(key, 0), sums, least, most, channels)
    for name in missing:
        shared = data_parallel(dividing=tasks[name].schedule.batch_size)
        params = amortised.train(
            tasks[name], jax.random.fold_in(key, 1), pool, layer, parts, shared
        )
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            raise UserError(
                f"the amortised {name} network of layer {layer.num_layers} diverged; "
                "train it with a lower learning rate"
            )
        save_networks(kept[name], params)
        # Another process may have been faster; all are to use the same.
        found[name] = load_networks(kept[name])
    return found


def _kept_network(path: Path) -> Any | None:
    """A network's params; None where they are damaged, which are then in nobody's way."""
    try:
        return load_networks(path)
    except UserError as error:
        _LOG.warning("%s; that network is trained again", error)
        shutil.rmtree(path)
        return None
