"""One cloud NN and one attacker per layer that work on any subset of its channels.

They are trained like those of a cell (`training`), but each example comes with a subset drawn anew
from a pool. Every subset is brought to the same inputs in closed form first (`subsets`), and both
networks only correct what a closed form answers already (`amortised_networks`). After that a
subset costs an evaluation; `scoring` does that.

    sums = subsets.layer_sums(layer, parts, most_channels=32)
    pool = draw_pool(key, sums, least=5, most=48, channels=128)
    params = train(task, key, pool, layer, parts, shardings)

Networks here are no weights of a split: they only estimate what dedicated ones would reach.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
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
from privynet_jax.training import linear_attack, tasks
from privynet_jax.training.networks import CloudNN, ResidualAttacker
from privynet_jax.training.tasks import Task

# Subsets in a layer's pool, which every device holds: at most so many, or so many bytes.
POOL, _LEAST_POOL, _POOL_BYTES = 512, 64, 2**28
# Steps that the host may be ahead of the devices.
_AHEAD = 2

# Of examples and of what every device holds, as `execution.data_parallel` gives them.
Shardings = tuple[Any, Any]


def layer_key(num_layers: int, seed: int) -> jax.Array:
    """Returns the key of a layer's networks: no number depends on which layers run beside it."""
    # Beyond every depth, so that no cell of the layer (`cells`) derives the same.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), num_layers), 2**31)


def cloud_task(network: AmortisedCloudNN, schedule: tasks.Schedule) -> Task:
    """Returns the amortised cloud NN's task; its extras are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((1, network.num_classes)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z, share = imputed(subset.imputation, x), subset.imputation.share
        released = jnp.take(x, subset.imputation.positions, axis=-1)
        return network.apply(params, z, share, probe_scores(subset.probe, pooled(released)))

    own = tasks.cloud_task(network, schedule)
    return dataclasses.replace(own, init=init, predict=predict)


def attacker_task(network: AmortisedAttacker, schedule: tasks.Schedule) -> Task:
    """Returns the amortised attacker's task; its extras are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        size = network.image_size
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((len(z), size, size, 3)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z = imputed(subset.imputation, x)
        return network.apply(params, z, subset.imputation.share, linear_estimates(subset, x))

    own = tasks.attacker_task(network, schedule)
    return dataclasses.replace(own, init=init, predict=predict)


def layer_tasks(
    cloud: CloudNN,
    attacker: ResidualAttacker,
    cloud_schedule: tasks.Schedule,
    attacker_schedule: tasks.Schedule,
) -> tuple[Task, Task]:
    """Returns the tasks of a layer's two networks, of the sizes that dedicated ones have."""
    cloud_network = AmortisedCloudNN(cloud.num_classes, cloud.image_size, cloud.width)
    attacker_network = AmortisedAttacker(attacker.image_size, attacker.width, attacker.num_blocks)
    return cloud_task(cloud_network, cloud_schedule), attacker_task(
        attacker_network, attacker_schedule
    )


def draw_pool(key: jax.Array, sums: LayerSums, least: int, most: int, channels: int) -> Subset:
    """Returns `POOL` subsets of a layer, stacked; fewer where they would be too large.

    See `draw_subsets`.
    """
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    # The linear attack's kernel is most of a subset.
    kernel_bytes = 4 * most * linear_attack.NEIGHBOURHOOD**2 * sums.fitted_on.cross.shape[1]
    count = min(POOL, max(_LEAST_POOL, _POOL_BYTES // kernel_bytes))
    subsets = draw_subsets(draws, count, least, most, channels)
    return stacked([prepare(sums, positions, most, quickly=True) for positions in subsets])


def train(
    task: Task,
    key: jax.Array,
    pool: Subset,
    layer: LayerFeatures,
    parts: Parts,
    shardings: Shardings,
    progress: Callable[[float], None] = lambda share: None,
) -> Any:
    """Trains a layer's network; each example comes with a subset drawn from the pool.

    Args:
        task: from `cloud_task` or `attacker_task`.
        key: everything random comes from it.
        pool: stacked subsets.
        layer: the features, all channels.
        parts: images and labels.
        shardings: of examples and of what every device holds; `execution.data_parallel`.
        progress: told the share done since the last call.

    Returns:
        Its params, NumPy arrays.
    """
    schedule = task.schedule
    if schedule is None:
        raise ValueError("Expected a task with a schedule, got one that is not trained.")
    split, everywhere = shardings
    initial, shuffling, drawing = jax.random.split(jax.random.fold_in(key, task.stream), 3)
    stored, targets = layer.parts[task.part], getattr(getattr(parts, task.part), task.targets)
    order = tasks.batch_order(shuffling, len(targets), schedule)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(drawing)))
    pool = jax.device_put(pool, everywhere)
    components = pool.imputation.kernel.shape[-1]
    example = np.zeros((1, *stored.shape[1:3], components), np.float32)
    state = jax.device_put(tasks.init_state(task, initial, example), everywhere)
    step = _step_on_pool(task)
    losses: collections.deque[jax.Array] = collections.deque()
    for rows in order:
        chosen = draws.integers(len(pool.bias), size=len(rows))
        batch = jax.device_put((chosen, stored[rows], targets[rows]), split)
        state, loss = step(state, pool, *batch)
        losses.append(loss)
        if len(losses) > _AHEAD:
            losses.popleft().block_until_ready()
        progress(1 / schedule.steps)
    return jax.device_get(state.params)


def _step_on_pool(task: Task) -> Callable[..., tuple[tasks.State, jax.Array]]:
    """Returns a jitted step (state, pool, chosen [B], representations, targets) -> state, loss."""

    def predict(params: Any, subsets: Subset, x: jax.Array) -> jax.Array:
        # Mapping over examples leaves whole convolutions, because they share the weights.
        return jax.vmap(lambda mine, one: task.predict(params, mine, one[None])[0])(subsets, x)

    per_example = dataclasses.replace(task, predict=predict)

    def step(
        state: tasks.State, pool: Subset, chosen: jax.Array, x: jax.Array, targets: jax.Array
    ) -> tuple[tasks.State, jax.Array]:
        subsets = jax.tree.map(lambda leaf: leaf[chosen], pool)
        return tasks.train_step(per_example, state, subsets, x, targets)

    return jax.jit(step, donate_argnums=0)
