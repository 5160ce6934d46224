"""One cloud NN and one attacker per layer that work on any subset of its channels.

They are trained like those of a cell, but each example comes with a subset drawn anew from a pool.
Every subset is brought to the same inputs in closed form first (`subsets`), and both networks only
correct what a closed form answers already (`amortised_networks`). After that a subset costs an
evaluation; `scoring` does that.

    sums = subsets.layer_sums(layer, parts, most_channels=32)
    pool = draw_pool(key, sums, least=5, most=48, channels=128)
    trained = train_on_pool(task, key, pool, inputs, targets, schedule)

Networks here are no weights of a split: they only estimate what dedicated ones would reach.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from privynet_jax.training import tasks
from privynet_jax.training.batches import stream_of
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.networks import CloudNN, ResidualAttacker
from privynet_jax.training.tasks import Schedule, Task
from privynet_jax.training.trainer import Course, Member, Trained, train

AMORTISED = "amortised"
# Subsets in a layer's pool, which every device holds: at most so many, or so many bytes.
POOL, _LEAST_POOL, _POOL_BYTES = 512, 64, 2**28


def layer_key(num_layers: int, seed: int) -> jax.Array:
    """Returns the key of a layer's networks: no number depends on which layers run beside it."""
    # Beyond every depth, so that no cell of the layer (`cells`) derives the same.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), num_layers), 2**31)


@functools.cache
def cloud_task(network: AmortisedCloudNN) -> Task:
    """Returns the amortised cloud NN's task; its constants are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((1, network.num_classes)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z, share = imputed(subset.imputation, x), subset.imputation.share
        released = jnp.take(x, subset.imputation.positions, axis=-1)
        return network.apply(params, z, share, probe_scores(subset.probe, pooled(released)))

    return dataclasses.replace(tasks.cloud_task(network), init=init, predict=predict)


@functools.cache
def attacker_task(network: AmortisedAttacker) -> Task:
    """Returns the amortised attacker's task; its constants are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        size = network.image_size
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((len(z), size, size, 3)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z = imputed(subset.imputation, x)
        return network.apply(params, z, subset.imputation.share, linear_estimates(subset, x))

    own = tasks.attacker_task(network, name=AMORTISED)
    return dataclasses.replace(own, init=init, predict=predict)


def layer_tasks(cloud: CloudNN, attacker: ResidualAttacker) -> tuple[Task, Task]:
    """Returns the tasks of a layer's two networks, of the sizes that dedicated ones have."""
    cloud_network = AmortisedCloudNN(cloud.num_classes, cloud.image_size, cloud.width)
    attacker_network = AmortisedAttacker(attacker.image_size, attacker.width, attacker.num_blocks)
    return cloud_task(cloud_network), attacker_task(attacker_network)


def draw_pool(key: jax.Array, sums: LayerSums, least: int, most: int, channels: int) -> Subset:
    """Returns `POOL` subsets of a layer, stacked; fewer where they would be too large.

    See `draw_subsets`.
    """
    # The linear attack's kernel is most of a subset.
    kernel_bytes = 4 * most * linear_attack.NEIGHBOURHOOD**2 * sums.fitted_on.cross.shape[1]
    count = min(POOL, max(_LEAST_POOL, _POOL_BYTES // kernel_bytes))
    subsets = draw_subsets(stream_of(key), count, least, most, channels)
    return stacked([prepare(sums, positions, most, quickly=True) for positions in subsets])


def train_on_pool(
    task: Task, key: jax.Array, pool: Subset, inputs: Any, targets: np.ndarray, schedule: Schedule
) -> Trained:
    """Trains a layer's network; each example comes with a subset drawn from the pool.

    Args:
        task: from `cloud_task` or `attacker_task`.
        key: everything random comes from it.
        pool: stacked subsets.
        inputs: representations [N, h, w, C], all channels, an array or what reads rows.
        targets: labels int [N], or images uint8 [N, H, W, 3].
        schedule: of the training.
    """
    member = Member(
        key=key,
        inputs=inputs,
        targets=targets,
        rows=np.arange(len(targets)),
        learning_rate=schedule.learning_rate,
        constants=pool,
    )
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
        # Mapping over examples leaves whole convolutions, because they share the weights.
        return jax.vmap(lambda mine, one: task.predict(params, mine, one[None])[0])(subsets, x)

    return dataclasses.replace(task, draw=draw, init=init, predict=predict)
