"""What a network learns from representations, and by what loss and optimiser: pure functions.

A `Task` has no data, no devices and no length of training: `steps` takes gradient steps on it, and
`trainer` trains many networks of one task side by side.

    task = cloud_task(CloudNN(30, 32))
    logits = task.predict(params, (), representations)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.errors import UserError
from privynet_jax.images import metrics
from privynet_jax.training.models import linear_attack
from privynet_jax.training.optimisers import Optimiser, adamw

CLOUD = "cloud"
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 1e-4
# The squared error at which the gradients of both losses are equally large, so that one clipping
# serves both; and one that counts as none: 50 dB.
_USUAL_ERROR, _LEAST_ERROR = 0.02, 1e-5
# (estimates, images), float32 [N, H, W, 3] each -> float32 scalar.
ImageLoss = Callable[[jax.Array, jax.Array], jax.Array]


def squared_loss(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error over all values."""
    return jnp.mean(jnp.square(estimates - images))


def log_loss(estimates: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean over images of the logarithm of their squared errors: PSNR, but for a scale.

    Privacy loss is the mean of each image's PSNR, so the attacker who minimises this attacks what
    is reported. It cares for images that it already rebuilds well as much as for the others.
    """
    errors = jnp.mean(jnp.square(estimates - images), axis=(1, 2, 3))
    return _USUAL_ERROR * jnp.mean(jnp.log(errors + _LEAST_ERROR))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained: a warm-up, then a cosine down to zero.

    Attributes:
        steps: mini-batches in all.
        batch_size: examples per mini-batch.
        learning_rate: the peak; None where each network has its own.

    Raises:
        UserError: the learning rate is not a positive number.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float | None = 2e-3

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            check_learning_rate(self.learning_rate)

    def longer(self, factor: float) -> "Schedule":
        """Returns the same with so many times the steps, at least one."""
        return dataclasses.replace(self, steps=max(1, round(factor * self.steps)))


def check_learning_rate(rate: float | None) -> None:
    """Raises UserError unless it is a positive number."""
    # A network that never moves would pass for one that has converged.
    if rate is None or not 0 < rate < math.inf:
        raise UserError(
            f"learning rate {rate}; allowed are positive numbers; 0.003 suits most networks here"
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network learns. Equal tasks share what is compiled for them.

    Attributes:
        name: what results call it.
        stream: tells apart the random streams of tasks that share a key.
        init: (key, representations) -> params.
        predict: (params, constants, representations) -> outputs. `constants` is a pytree of the
            member's own that training does not change: its closed-form attack.
        loss: (outputs, targets) -> float32 scalar.
        measure: (outputs, targets) -> name -> float32 [N], one value per example.
        score: mean of each measure -> numbers that decide which of two trainings is better, the
            first that differs; more is better.
        error: likewise -> a positive number whose ratios say how much better an output is.
        optimiser: what makes updates of gradients.
        draw: (key, constants, representations, targets) -> the same two, made anew in every step;
            None takes them as they are.
        hardness: of each example, an array, a copy is learnt from as well, each value of which lies
            so far up the loss (the fast gradient sign method, arXiv:1412.6572); 0: no copies.
    """

    name: str
    stream: int
    init: Callable[[jax.Array, jax.Array], Any]
    predict: Callable[[Any, Any, Any], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    measure: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    score: Callable[[Mapping[str, float]], tuple[float, ...]]
    error: Callable[[Mapping[str, float]], float]
    optimiser: Optimiser = adamw
    draw: Callable[[jax.Array, Any, Any, jax.Array], tuple[Any, jax.Array]] | None = None
    hardness: float = 0.0


def _smoothed_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), LABEL_SMOOTHING)
    return optax.softmax_cross_entropy(logits, targets)


def task_of(network: nn.Module, several: bool, shares: tuple[float, ...] | None = None) -> Task:
    """Returns the cloud NN's task, for one class of each example or several labels.

    Shares are of examples that have each label: then both answers to it count alike.
    """
    return labels_task(network, shares) if several else cloud_task(network)


@functools.cache
def cloud_task(network: nn.Module) -> Task:
    """Returns the cloud NN's task: labels int [N] from representations."""
    return Task(
        name=CLOUD,
        stream=0,
        init=network.init,
        predict=lambda params, _, x: network.apply(params, x),
        loss=lambda logits, labels: _smoothed_cross_entropy(logits, labels).mean(),
        measure=lambda logits, labels: {
            "accuracy": metrics.correct(logits, labels),
            "loss": _smoothed_cross_entropy(logits, labels),
        },
        score=lambda means: (means["accuracy"], -means["loss"]),
        error=lambda means: means["loss"],
    )


@functools.cache
def labels_task(network: nn.Module, shares: tuple[float, ...] | None = None) -> Task:
    """Returns the cloud NN's task where each example may have several labels, or none.

    They are int [N, labels] of 0 and 1, and -1 where nobody looked; each label is a question of its
    own (binary cross-entropy), the loss their mean over those that somebody looked for. Of shares
    see `task_of`.
    """
    rarity = None if shares is None else np.float32(shares)

    def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        # A label that nobody looked for is nobody's mistake.
        each = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(labels, 0))
        if rarity is not None:
            each = each / (2 * jnp.where(labels > 0, rarity, 1 - rarity))
        return _mean_where(labels >= 0, each)

    return dataclasses.replace(
        cloud_task(network),
        loss=lambda logits, labels: losses(logits, labels).mean(),
        measure=lambda logits, labels: {
            "accuracy": _mean_where(labels >= 0, metrics.correct(logits, labels)),
            "loss": losses(logits, labels),
        },
        # Most labels are 0: to answer that always is right too often to choose by.
        score=lambda means: (-means["loss"],),
    )


def _mean_where(chosen: jax.Array, values: jax.Array) -> jax.Array:
    """[N, K] to [N]; 0 where none is chosen."""
    return (values * chosen).sum(axis=-1) / jnp.maximum(chosen.sum(axis=-1), 1)


@functools.cache
def attacker_task(
    network: nn.Module,
    *,
    name: str,
    stream: int = 1,
    loss: ImageLoss = squared_loss,
    optimiser: Optimiser = adamw,
    linear_start: bool = True,
    shows_estimate: bool = False,
) -> Task:
    """Returns an inverse network's task: images float32 [N, H, W, 3] from representations.

    Its constants are the member's `linear_attack.LinearAttack`, which the network corrects.

    Args:
        network: representations -> correction, or image.
        name: what results call it.
        stream: of random numbers; another one for each attacker of a cell.
        loss: that it minimises.
        optimiser: `optimisers.adamw` or `optimisers.muon`.
        linear_start: whether it corrects the linear estimate, or answers by itself.
        shows_estimate: the network is given the linear estimate as well (`StrongAttacker`).
    """

    def init(key: jax.Array, x: jax.Array) -> Any:
        blank = jnp.zeros((len(x), network.image_size, network.image_size, 3))
        return network.init(key, x, blank)

    def predict(params: Any, attack: linear_attack.LinearAttack, x: jax.Array) -> jax.Array:
        if not linear_start:
            return network.apply(params, x)
        estimate = linear_attack.reconstruct(attack, x)
        shown = (estimate,) if shows_estimate else ()
        return estimate + network.apply(params, x, *shown)

    return Task(
        name=name,
        stream=stream,
        init=init if shows_estimate else network.init,
        predict=predict,
        loss=loss,
        measure=metrics.image_quality,
        score=lambda means: (means["psnr_db"],),
        error=squared_error,
        optimiser=optimiser,
    )


def squared_error(means: Mapping[str, float]) -> float:
    """Returns the geometric mean over images of their squared errors: a mean of PSNR says it."""
    return 10 ** (-means["psnr_db"] / 10)
