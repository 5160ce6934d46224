"""One cloud NN and one attacker per layer that work on any subset of its channels.

They are trained like those of a cell, but each example comes with a subset drawn anew from a pool.
Every subset is brought to the same inputs in closed form first (`subsets`), and both networks only
correct what a closed form answers already (`amortised_networks`). After that a subset costs an
evaluation; `scoring` does that. Networks are kept in the work directory, or trained now.

    cloud_task, attacker_task = layer_tasks(CloudNN(30, 32))
    learnt = {CLOUD: (cloud_task, schedule), ATTACKER: (attacker_task, schedule)}
    networks = trained_networks(LayerData(layer, sums, parts), learnt, depths, folder, seed=0)
    networks[ATTACKER]  # params

Networks here are no weights of a split: they only estimate what dedicated ones would reach.
"""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.estimates.amortised_networks import AmortisedAttacker, AmortisedCloudNN
from privynet_jax.estimates.imputation import imputed
from privynet_jax.estimates.linear_probe import pooled, probe_scores
from privynet_jax.estimates.subsets import (
    LayerSums,
    Subset,
    draw_subsets,
    linear_estimates,
    prepare,
    stacked,
)
from privynet_jax.images.parts import Parts
from privynet_jax.training import tasks
from privynet_jax.training.batches import stream_of
from privynet_jax.training.checkpoints import load_tree, save_tree
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.tasks import CLOUD, Schedule, Task
from privynet_jax.training.trainer import Course, Member, Trained, train

AMORTISED, ATTACKER = "amortised", "attacker"
# Subsets in a layer's pool, which every device holds: at most so many, or so many bytes.
POOL, _LEAST_POOL, _POOL_BYTES = 256, 64, 2**28
# The pool's depths reach beyond those of the grid by this factor, on both sides.
_MARGIN = 1.5
_CHECKPOINT = "checkpoint of amortised networks"
_LOG = logging.getLogger(__name__)


def layer_key(num_layers: int, seed: int) -> jax.Array:
    """Returns the key of a layer's networks: no number depends on which layers run beside it."""
    # Beyond every depth, so that no cell of the layer (`cells`) derives the same.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), num_layers), 2**31)


def layer_tasks(cloud: CloudNN, several: bool = False) -> tuple[Task, Task]:
    """Returns the tasks of a layer's two networks, of the sizes that dedicated ones have.

    The first learns one class of each image, or several labels. The attacker is the strong one:
    its network, loss and optimiser. Constants are one `Subset`.
    """
    size = cloud.image_size
    cloud_network = AmortisedCloudNN(cloud.num_classes, size, cloud.width)
    attacker_network = AmortisedAttacker(size)
    cloud_task = tasks.task_of(cloud_network, several)
    attacker_task = tasks.attacker_task(
        attacker_network,
        name=AMORTISED,
        loss=CAPACITIES[STRONG].loss,
        optimiser=CAPACITIES[STRONG].optimiser,
    )
    return (
        _correcting(cloud_task, cloud_network, (cloud.num_classes,), _scores),
        _correcting(attacker_task, attacker_network, (size, size, 3), linear_estimates),
    )


def _scores(subset: Subset, x: jax.Array) -> jax.Array:
    # All channels are pooled, once for all subsets of the same images.
    numbers = jnp.take(pooled(x), subset.imputation.positions, axis=-1)
    return probe_scores(subset.probe, numbers)


@functools.cache
def _correcting(
    task: Task,
    network: nn.Module,
    shape: tuple[int, ...],
    answers: Callable[[Subset, jax.Array], jax.Array],
) -> Task:
    """Returns the task for a network that corrects a closed form's answers, float32 [N, *shape].

    Constants are one `Subset`, or one per example, with a leading axis.
    """

    def init(key: jax.Array, z: jax.Array) -> Any:
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((len(z), *shape)))

    def seen(subset: Subset, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return imputed(subset.imputation, x), answers(subset, x)

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        share = subset.imputation.share
        if share.ndim == 1:
            z, answered = seen(subset, x)
        else:  # a subset per example, which only the closed forms have to know
            z, answered = jax.vmap(lambda own, one: _first(seen(own, one[None])))(subset, x)
        return network.apply(params, z, share, answered)

    return dataclasses.replace(task, init=init, predict=predict)


def _first(of_one: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], of_one)


def draw_pool(key: jax.Array, sums: LayerSums, least: int, most: int, channels: int) -> Subset:
    """Returns `POOL` subsets of a layer, stacked; fewer where they would be too large."""
    # The linear attack's kernel is most of a subset.
    kernel_bytes = 4 * most * linear_attack.NEIGHBOURHOOD**2 * sums.fitted_on.cross.shape[1]
    count = min(POOL, max(_LEAST_POOL, _POOL_BYTES // kernel_bytes))
    subsets = draw_subsets(stream_of(key), count, least, most, channels)
    return stacked([prepare(sums, positions, most, quickly=True) for positions in subsets])


def train_on_pool(
    task: Task, key: jax.Array, pool: Subset, inputs: Any, targets: np.ndarray, schedule: Schedule
) -> Trained:
    """Trains a layer's network; each example comes with a subset drawn from the pool.

    Inputs are representations [N, h, w, C], all channels, an array or what reads rows; targets
    are labels int [N], or images uint8 [N, H, W, 3].
    """
    rows, rate = np.arange(len(targets)), schedule.learning_rate
    member = Member(key, inputs, targets, rows, rate, constants=pool)
    [trained] = train(_on_pool(task), [member], Course(schedule.steps, schedule.batch_size))
    return trained


@functools.cache
def _on_pool(task: Task) -> Task:
    """Returns the task whose examples come with a subset each; its constants are a pool."""

    def draw(
        key: jax.Array, pool: Subset, x: jax.Array, targets: jax.Array
    ) -> tuple[tuple[jax.Array, Subset], jax.Array]:
        chosen = jax.random.randint(key, (len(x),), 0, len(pool.bias))
        return (x, jax.tree.map(lambda leaf: leaf[chosen], pool)), targets

    def init(key: jax.Array, inputs: tuple[jax.Array, Subset]) -> Any:
        x, subsets = inputs
        components = subsets.imputation.kernel.shape[-1]
        return task.init(key, jnp.zeros((1, *x.shape[1:3], components)))

    def predict(params: Any, _: Subset, inputs: tuple[jax.Array, Subset]) -> jax.Array:
        x, subsets = inputs
        # One batch for the network: mapped over examples it would have a gradient for each.
        return task.predict(params, subsets, x)

    return dataclasses.replace(task, draw=draw, init=init, predict=predict)


class LayerData(NamedTuple):
    """A layer's features with all of its channels, the sums over them, and their images."""

    layer: LayerFeatures
    sums: LayerSums
    parts: Parts


def trained_networks(
    data: LayerData,
    learnt: Mapping[str, tuple[Task, Schedule]],
    depths: Sequence[int],
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Returns params of a layer's networks by name, from the folder or newly trained.

    What is learnt is "cloud" and "attacker", or one of them: no number of one depends on whether
    the other is wanted. The grid's depths decide which subsets they are trained on.

    Raises:
        DivergedError: training did.
    """
    number = data.layer.num_layers
    kept = {name: folder / f"layer_{number:02d}_{name}" for name in learnt}
    networks = {name: _kept_network(path) for name, path in kept.items() if path.exists()}
    missing = [name for name in learnt if networks.get(name) is None]
    if not missing:
        return networks
    key = layer_key(number, seed)
    channels = len(data.layer.channels)
    least = max(1, round(min(depths) / _MARGIN))
    most = min(channels, round(max(depths) * _MARGIN))
    pool = draw_pool(jax.random.fold_in(key, 0), data.sums, least, most, channels)
    stored, parts = data.layer.parts, data.parts
    examples = {
        CLOUD: (stored["target"], parts.target.answers),
        ATTACKER: (stored["auxiliary"], parts.auxiliary.images),
    }
    for name in missing:
        task, schedule = learnt[name]
        trained = train_on_pool(task, jax.random.fold_in(key, 1), pool, *examples[name], schedule)
        if trained.diverged:
            raise DivergedError(
                f"the amortised {name} network of layer {number} diverged; "
                "train it with a lower learning rate"
            )
        save_tree(kept[name], trained.params)
        # Another process may have been faster; all are to use the same.
        networks[name] = load_tree(kept[name], _CHECKPOINT)
    return networks


def _kept_network(path: Path) -> Any | None:
    """A network's params; None where they are damaged, which are then in nobody's way."""
    try:
        return load_tree(path, _CHECKPOINT)
    except UserError as error:
        _LOG.warning("%s; that network is trained again", error)
        shutil.rmtree(path)
        return None
