"""Training and evaluating one network of one cell, as pure functions that `grid` maps over cells.

A task says what is learnt from representations; a step is `(state, batch) -> (state, loss)`. There
are no devices, files or loops over data here, so every function can be jitted, vmapped, pmapped,
scanned and lowered for any backend.

    task = cloud_task(cloud_nn(30), Schedule(steps=300))
    state = init_state(task, key, representations)
    state, loss = train_step(task, state, task_inputs, representations, labels)
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.errors import UserError
from privynet_jax.images import metrics
from privynet_jax.images.metrics import image_quality
from privynet_jax.training import linear_attack
from privynet_jax.training.convergence import Curve
from privynet_jax.training.losses import SQUARED, ImageLoss
from privynet_jax.training.optimisers import Optimiser, adamw, clipped


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained: AdamW, warmed up, then a cosine down to zero.

    Attributes:
        steps: mini-batches in all.
        batch_size: examples per mini-batch.
        learning_rate: the peak.
        weight_decay: decoupled, per step times the learning rate.

    Raises:
        UserError: the learning rate is not a positive number.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if not (0 < self.learning_rate < math.inf):
            raise UserError(
                f"learning rate {self.learning_rate}; allowed are positive numbers; "
                "0.003 suits most networks here"
            )


class State(NamedTuple):
    """What training changes; a checkpoint of it is all that continuing needs."""

    params: Any
    optimiser: Any
    curve: Curve


@dataclasses.dataclass(frozen=True)
class Task:
    """What one network learns from representations.

    Attributes:
        name: what results call it.
        part: the part of the data that it learns from: "target" or "auxiliary".
        targets: what it learns: "labels" (int [N]) or "images" (uint8 [N, H, W, 3]).
        stream: tells apart the random streams of a cell's tasks.
        init: (key, representations) -> params.
        predict: (params, extras, representations) -> outputs. `extras` is a pytree of the cell's
            own that training does not change: its closed-form attack.
        loss: (outputs, targets) -> float32 scalar.
        measure: (outputs, targets) -> name -> float32 [N], one value per image.
        schedule: None where there is nothing to train.
        optimiser: what makes updates of gradients.
        error: mean loss -> a number whose ratios say how much better an output is.
    """

    name: str
    part: str
    targets: str
    stream: int
    init: Callable[[jax.Array, jax.Array], Any]
    predict: Callable[[Any, Any, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    measure: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    schedule: Schedule | None
    optimiser: Optimiser = adamw
    error: Callable[[float], float] = float


CLOUD, LINEAR, RESIDUAL = "cloud", "linear", "residual"
LABEL_SMOOTHING = 0.1


def cloud_task(network: nn.Module, schedule: Schedule) -> Task:
    """Returns the cloud NN's task: labels int [N] from representations."""

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), LABEL_SMOOTHING)
        return optax.softmax_cross_entropy(logits, targets).mean()

    return Task(
        name=CLOUD,
        part="target",
        targets="labels",
        stream=0,
        init=network.init,
        predict=lambda params, _, x: network.apply(params, x),
        loss=loss,
        measure=lambda logits, labels: {"accuracy": metrics.correct(logits, labels)},
        schedule=schedule,
    )


def attacker_task(
    network: nn.Module,
    schedule: Schedule,
    *,
    name: str = RESIDUAL,
    stream: int = 1,
    loss: ImageLoss = SQUARED,
    optimiser: Optimiser = adamw,
    shows_estimate: bool = False,
) -> Task:
    """Returns a trained attacker's task: images float32 [N, H, W, 3] from representations.

    Its extras are the cell's `linear.LinearAttack`, which the network corrects.

    Args:
        network: representations -> correction.
        schedule: of its training.
        name: what results call it.
        stream: of random numbers; another one for each trained attacker of a cell, from 3.
        loss: `losses.SQUARED` or `losses.LOGARITHMIC`.
        optimiser: `adamw` or `muon`.
        shows_estimate: the network is given the linear estimate as well (`StrongAttacker`).
    """

    def init(key: jax.Array, x: jax.Array) -> Any:
        blank = jnp.zeros((len(x), network.image_size, network.image_size, 3))
        return network.init(key, x, blank)

    def predict(params: Any, attack: linear_attack.LinearAttack, x: jax.Array) -> jax.Array:
        estimate = linear_attack.reconstruct(attack, x)
        shown = (estimate,) if shows_estimate else ()
        return estimate + network.apply(params, x, *shown)

    return Task(
        name=name,
        part="auxiliary",
        targets="images",
        stream=stream,
        init=init if shows_estimate else network.init,
        predict=predict,
        loss=loss.of,
        error=loss.error,
        measure=image_quality,
        schedule=schedule,
        optimiser=optimiser,
    )


def linear_task() -> Task:
    """Returns the linear attacker's task, whose extras say all; there is nothing to train."""
    return Task(
        name=LINEAR,
        part="auxiliary",
        targets="images",
        stream=2,
        init=lambda key, x: {},
        predict=lambda _, attack, x: linear_attack.reconstruct(attack, x),
        loss=SQUARED.of,
        measure=image_quality,
        schedule=None,
    )


def init_state(task: Task, key: jax.Array, example: jax.Array) -> State:
    """Returns the state before the first step, from a key and one batch of representations."""
    params = task.init(key, example)
    return State(params, _optimiser(task).init(params), Curve.empty())


def train_step(
    task: Task, state: State, extras: Any, representations: jax.Array, targets: jax.Array
) -> tuple[State, jax.Array]:
    """Returns the state after one mini-batch, and the loss on it before.

    Args:
        task: what is learnt.
        state: from `init_state` or the step before.
        extras: the cell's own constants.
        representations: [B, h, w, D] of any floating type; computed with as float32.
        targets: labels int [B], or images uint8 [B, H, W, 3].
    """
    loss, descent = gradients(task, state.params, extras, representations, targets)
    updates, optimiser = _optimiser(task).update(descent, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, optimiser, state.curve.extended(loss, _schedule(task).steps)), loss


def gradients(
    task: Task, params: Any, extras: Any, representations: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
    """Returns the loss on one mini-batch, and its gradients; arguments as in `train_step`."""
    x, y = representations.astype(jnp.float32), _as_targets(targets)

    def loss_of(params: Any) -> jax.Array:
        return task.loss(task.predict(params, extras, x), y)

    return jax.value_and_grad(loss_of)(params)


def train_steps(
    task: Task,
    state: State,
    extras: Any,
    batches: Any,
    live: jax.Array,
    fetch: Callable[[Any], tuple[jax.Array, jax.Array]] = lambda batch: batch,
) -> tuple[State, jax.Array]:
    """Takes one step per leading index of the batches; returns the state and the last loss.

    Several steps become one `lax.scan`: right for accelerators, where each dispatch costs, and
    wrong for CPU, where XLA runs convolutions inside a loop some 50 times slower (`grid`).

    Args:
        task: what is learnt.
        state: from `init_state` or the steps before.
        extras: the cell's own constants.
        batches: a pytree whose arrays have a leading axis of steps.
        live: bool [steps]; steps that are not live only fill up a dispatch, and change nothing.
        fetch: one batch -> (representations, targets) as `train_step` takes them. By default the
            batches are that already.
    """
    if live.shape[0] == 1:
        return train_step(task, state, extras, *fetch(jax.tree.map(lambda x: x[0], batches)))

    def body(carry: Any, step: tuple[Any, jax.Array]) -> tuple[Any, None]:
        batch, is_live = step
        stepped = train_step(task, carry[0], extras, *fetch(batch))
        return jax.tree.map(lambda new, old: jnp.where(is_live, new, old), stepped, carry), None

    (state, loss), _ = jax.lax.scan(body, (state, jnp.float32(0)), (batches, live))
    return state, loss


def predict(task: Task, params: Any, extras: Any, representations: jax.Array) -> jax.Array:
    """Returns the task's outputs for [N, h, w, D] of any floating type; images are clipped."""
    outputs = task.predict(params, extras, representations.astype(jnp.float32))
    # Every attacker knows that images lie in [0, 1]; logits have two axes and are left alone.
    return jnp.clip(outputs, 0.0, 1.0) if outputs.ndim == 4 else outputs


def evaluate(
    task: Task, params: Any, extras: Any, representations: jax.Array, targets: jax.Array
) -> dict[str, jax.Array]:
    """Returns the task's metrics per image, float32 [N]; arguments as in `train_step`."""
    outputs = predict(task, params, extras, representations)
    return task.measure(outputs, _as_targets(targets))


def batch_order(key: jax.Array, num_examples: int, schedule: Schedule) -> np.ndarray:
    """Returns int [steps, batch_size]: shuffled epochs one after another, from the key alone."""
    needed = schedule.steps * schedule.batch_size
    # NumPy's generator, because this is host work; its seed is the key's own bits.
    stream = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    epochs = [stream.permutation(num_examples) for _ in range(-(-needed // num_examples))]
    return np.concatenate(epochs)[:needed].reshape(schedule.steps, schedule.batch_size)


def _as_targets(targets: jax.Array) -> jax.Array:
    """Images travel as uint8, a quarter of the bytes, and become float32 where they are used."""
    return targets.astype(jnp.float32) / 255.0 if targets.ndim == 4 else targets


def _schedule(task: Task) -> Schedule:
    if task.schedule is None:
        raise ValueError("Expected a task with a schedule, got one that is not trained.")
    return task.schedule


def _optimiser(task: Task) -> optax.GradientTransformation:
    schedule = _schedule(task)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=schedule.learning_rate,
        warmup_steps=schedule.steps // 10,
        decay_steps=schedule.steps,
    )
    return clipped(task.optimiser(rate, schedule.weight_decay))
