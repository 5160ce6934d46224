"""The amortised networks of a layer: from the work directory, or trained now and kept there.

`amortised` trains one network; `scoring` and `candidates` ask here for those that they need.

    learnt = {CLOUD: (cloud_task, schedule), ATTACKER: (attacker_task, schedule)}
    networks = trained_networks(LayerData(layer, sums, parts), learnt, depths, folder, seed=0)
    networks[ATTACKER]  # params
"""

import dataclasses
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
from privynet_jax.training.checkpoints import load_tree, save_tree
from privynet_jax.training.tasks import CLOUD, Schedule, Task

_LOG = logging.getLogger(__name__)
ATTACKER = "attacker"
# The pool's depths reach beyond those of the grid by this factor, on both sides.
_MARGIN = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class LayerData:
    """A layer's features with all of its channels, the sums over them, and their images."""

    layer: LayerFeatures
    sums: LayerSums
    parts: Parts

    def examples(self, name: str) -> tuple[Any, np.ndarray]:
        """Returns representations and targets of what a network learns from."""
        if name == CLOUD:
            return self.layer.parts["target"], self.parts.target.labels
        return self.layer.parts["auxiliary"], self.parts.auxiliary.images


def trained_networks(
    data: LayerData,
    learnt: Mapping[str, tuple[Task, Schedule]],
    depths: Sequence[int],
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Returns params of a layer's networks by name, from the folder or newly trained.

    Args:
        data: of the layer.
        learnt: "cloud" and "attacker", or one of them -> what it learns, and how long; no number
            of one network depends on whether the other is wanted.
        depths: of the grid; they decide which subsets the networks are trained on.
        folder: where networks are kept.
        seed: of the grid.

    Raises:
        UserError: training diverged.
    """
    number = data.layer.num_layers
    kept = {name: folder / f"layer_{number:02d}_{name}" for name in learnt}
    networks = {name: _kept_network(path) for name, path in kept.items() if path.exists()}
    missing = [name for name in learnt if networks.get(name) is None]
    if not missing:
        return networks
    key = amortised.layer_key(number, seed)
    channels = len(data.layer.channels)
    least = max(1, round(min(depths) / _MARGIN))
    most = min(channels, round(max(depths) * _MARGIN))
    pool = amortised.draw_pool(jax.random.fold_in(key, 0), data.sums, least, most, channels)
    for name in missing:
        task, schedule = learnt[name]
        inputs, targets = data.examples(name)
        trained = amortised.train_on_pool(
            task, jax.random.fold_in(key, 1), pool, inputs, targets, schedule
        )
        if trained.diverged:
            raise UserError(
                f"the amortised {name} network of layer {number} diverged; "
                "train it with a lower learning rate"
            )
        save_tree(kept[name], trained.params)
        # Another process may have been faster; all are to use the same.
        networks[name] = _load(kept[name])
    return networks


def _kept_network(path: Path) -> Any | None:
    """A network's params; None where they are damaged, which are then in nobody's way."""
    try:
        return _load(path)
    except UserError as error:
        _LOG.warning("%s; that network is trained again", error)
        shutil.rmtree(path)
        return None


def _load(path: Path) -> Any:
    return load_tree(path, "checkpoint of amortised networks")
