"""Gradient steps on one network, as pure functions: the only place where gradients are taken.

There are no devices, files or loops over data here, so every function can be jitted, vmapped,
pmapped, scanned and lowered for any backend. The learning rate is an argument: one compilation
serves every rate and every length of training. `mapping` maps `first_state` and `take_steps` over
members.

    state = init_state(task, key, representations)
    state, loss = step(task, state, constants, representations, targets, rate=1e-3)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from privynet_jax.training.tasks import WEIGHT_DECAY, Task


class State(NamedTuple):
    """What training changes."""

    params: Any
    optimiser: Any


class Constants(NamedTuple):
    """What a member brings to every step, and training does not change."""

    own: Any  # the task's constants
    key: jax.Array  # data of the key of `Task.draw`
    channels: jax.Array  # int32 [width], where its channels lie in what is stored, then zeros
    released: jax.Array  # bool [width], false where a channel only fills up the width


class Resident(NamedTuple):
    """Data in a device's memory, shared by the device's members."""

    representations: jax.Array  # [N, h, w, C], all stored channels of the layer
    targets: jax.Array  # labels int [N], or images uint8 [N, H, W, 3]


class Dispatch(NamedTuple):
    """What several steps are taken with, each array with a leading axis of steps."""

    batches: Any  # a pytree, each as `fetch` takes it
    rates: jax.Array  # float32 [steps]
    numbers: jax.Array  # int32 [steps], of each step since the first of the training
    live: jax.Array  # bool [steps]; steps that are not live only fill up, and change nothing


def fetch(constants: Constants, resident: Resident | None, batch: Any) -> tuple[Any, Any]:
    """Returns (representations [B, h, w, width], targets [B, ...]) of one batch.

    A batch is int [B], rows of the resident data; or itself what is returned, where the host
    gathers.
    """
    if resident is None:
        return batch
    chosen = jnp.take(resident.representations[batch], constants.channels, axis=-1)
    return jnp.where(constants.released, chosen, 0), resident.targets[batch]


def init_state(task: Task, key: jax.Array, example: jax.Array) -> State:
    """Returns the state before the first step, from a key and one batch of representations."""
    params = task.init(key, example)
    return State(params, _update(task).init(params))


def first_state(
    task: Task, key_data: jax.Array, constants: Constants, resident: Resident | None, batch: Any
) -> State:
    """Returns the state of a member before its first step."""
    representations, targets = fetch(constants, resident, batch)
    if task.draw is not None:
        key = jax.random.wrap_key_data(constants.key)
        representations, _ = task.draw(key, constants.own, representations, targets)
    example = jax.tree.map(as_float32, representations)
    return init_state(task, jax.random.wrap_key_data(key_data), example)


def step(
    task: Task, state: State, constants: Any, inputs: Any, targets: jax.Array, rate: jax.Array
) -> tuple[State, jax.Array]:
    """Returns the state after one mini-batch, and the loss on it before.

    Inputs are representations [B, h, w, D] of any floating type, or what `Task.draw` made; targets
    labels int [B], or images uint8 [B, H, W, 3]. A learning rate of 0 changes no parameter.
    """
    x, y = jax.tree.map(as_float32, inputs), as_targets(targets)

    def loss_of(params: Any, x: Any) -> jax.Array:
        return task.loss(task.predict(params, constants, x), y)

    def loss_of_both(params: Any, x: jax.Array) -> jax.Array:
        hard = x + task.hardness * jnp.sign(jax.grad(loss_of, argnums=1)(state.params, x))
        return (loss_of(params, x) + loss_of(params, hard)) / 2

    learnt = loss_of_both if task.hardness else loss_of
    loss, gradients = jax.value_and_grad(learnt)(state.params, x)
    # Every optimiser's update, weight decay included, is proportional to its rate.
    updates, optimiser = _update(task).update(gradients, state.optimiser, state.params)
    updates = jax.tree.map(lambda update: rate * update, updates)
    return State(optax.apply_updates(state.params, updates), optimiser), loss


def take_steps(
    task: Task, state: State, constants: Constants, resident: Resident | None, dispatch: Dispatch
) -> tuple[State, jax.Array]:
    """Takes the steps of one dispatch; returns the state and the losses, float32 [steps].

    Several steps become one `lax.scan`: right for accelerators, where each dispatch costs, and
    wrong for CPU, where XLA runs convolutions inside a loop some 50 times slower.
    """
    key = jax.random.wrap_key_data(constants.key)

    def one(state: State, this: Dispatch) -> tuple[State, jax.Array]:
        inputs, targets = fetch(constants, resident, this.batches)
        if task.draw is not None:
            drawing = jax.random.fold_in(key, this.numbers)
            inputs, targets = task.draw(drawing, constants.own, inputs, targets)
        return step(task, state, constants.own, inputs, targets, this.rates)

    def or_nothing(state: State, this: Dispatch) -> tuple[State, jax.Array]:
        after, loss = one(state, this)
        return jax.tree.map(lambda new, old: jnp.where(this.live, new, old), after, state), loss

    if dispatch.live.shape[0] == 1:  # always live
        state, loss = one(state, jax.tree.map(lambda x: x[0], dispatch))
        return state, loss[None]
    return jax.lax.scan(or_nothing, state, dispatch)


def outputs_of(task: Task, params: Any, constants: Any, representations: jax.Array) -> jax.Array:
    """Returns the task's outputs for [N, h, w, D] of any floating type; images are clipped."""
    outputs = task.predict(params, constants, as_float32(representations))
    # Every attacker knows that images lie in [0, 1]; logits have two axes and are left alone.
    return jnp.clip(outputs, 0.0, 1.0) if outputs.ndim == 4 else outputs


def as_float32(x: jax.Array) -> jax.Array:
    """Representations are stored as they fit best, and computed with as float32."""
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def as_targets(targets: jax.Array) -> jax.Array:
    """Images travel as uint8, a quarter of the bytes, and become float32 where they are used."""
    return targets.astype(jnp.float32) / 255.0 if targets.ndim == 4 else targets


def _update(task: Task) -> optax.GradientTransformation:
    # The norm of all gradients together is limited before the optimiser sees them.
    return optax.chain(optax.clip_by_global_norm(1.0), task.optimiser(1.0, WEIGHT_DECAY))
