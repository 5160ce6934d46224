"""Training steps whose learning rate is an argument: one compilation serves every rate and length.

`training` has schedules inside its steps, as a grid of equal cells wants it. `fitting` calls these
with a rate of its own for each step.

    state = init_state(task, key, representations)
    state, loss = step(task, state, linear_attack, representations, images, rate)
"""

from typing import Any, NamedTuple

import jax
import optax

from privynet_jax.training.optimisers import clipped
from privynet_jax.training.tasks import Task, gradients


class RatedState(NamedTuple):
    """What training changes."""

    params: Any
    optimiser: Any


def init_state(task: Task, key: jax.Array, example: jax.Array) -> RatedState:
    """Returns the state before the first step, from a key and one batch of representations."""
    params = task.init(key, example)
    return RatedState(params, _update(task).init(params))


def step(
    task: Task,
    state: RatedState,
    extras: Any,
    representations: jax.Array,
    images: jax.Array,
    rate: jax.Array,
) -> tuple[RatedState, jax.Array]:
    """Returns the state after one mini-batch, and the loss on it before.

    Args:
        task: what is learnt; of its schedule only the weight decay counts.
        state: from `init_state` or the step before.
        extras: what the task is given besides.
        representations: [B, h, w, D] of any floating type; computed with as float32.
        images: uint8 [B, H, W, 3].
        rate: float32 scalar; 0 changes no parameter.
    """
    loss, descent = gradients(task, state.params, extras, representations, images)
    # Every optimiser's update, weight decay included, is proportional to its rate.
    updates, optimiser = _update(task).update(descent, state.optimiser, state.params)
    updates = jax.tree.map(lambda update: rate * update, updates)
    return RatedState(optax.apply_updates(state.params, updates), optimiser), loss


def _update(task: Task) -> optax.GradientTransformation:
    if task.schedule is None:
        raise ValueError("Expected a task with a schedule, got one that is not trained.")
    return clipped(task.optimiser(1.0, task.schedule.weight_decay))
