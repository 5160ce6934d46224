"""Local NNs that learn on public pictures first, and are frozen then.

By an exit of its own the local NN learns the public pictures' classes, so that nothing has to come
back from the cloud while it trains (Sepehri et al., arXiv:2303.02384); NoPeek adds a penalty on
how much its representations tell of the picture (Vepakomma et al., arXiv:2008.09161). What results
runs on the device like any other, costs as much, and is as secret as the plan: only whoever has it
has the released channels. The public pictures are the attackers' own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone import split
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.mechanism import Local, Mechanism
from privynet_jax.training.optimisers import adamw
from privynet_jax.training.tasks import task_of
from privynet_jax.training.trainer import Course, Member, train

_BATCH = 32
_TINY = 1e-9
# (parameters of the local NN, images float32 [N, H, W, 3] in [0, 1]) -> normalised representation
Representing = Callable[[Mapping[str, Any], jax.Array], jax.Array]


class Penalty(NamedTuple):
    """What is added to the exit's loss, and what it learns itself while the local NN does.

    Attributes:
        of: (its parameters, images, representations) -> number.
        init: (key, representations) -> its parameters.
        pace: times the local NN's learning rate.
    """

    of: Callable[[Any, jax.Array, jax.Array], jax.Array]
    init: Callable[[jax.Array, jax.Array], Any] = lambda key, z: ()
    pace: float = 1.0


@dataclasses.dataclass(frozen=True)
class EarlyExit(Mechanism):
    """The local NN, trained on public pictures by an early exit.

    Attributes:
        steps: of 32 pictures.
        rate: peak of the learning rate.
    """

    name: ClassVar[str] = "early_exit"
    not_planned: ClassVar[str] = "its local NN has weights of its own, which no package carries"
    changes_image: ClassVar[bool] = True
    steps: int = 300
    rate: float = 3e-4

    def __post_init__(self) -> None:
        self._check("steps", "1 or more", self.steps >= 1)
        self._check("rate", "more than 0, to 1", 0 < self.rate <= 1)

    def local(self, clean: Scenario, key: jax.Array) -> Local:
        """Trains; returns images -> normalised representation of the released channels."""
        params = adapted_params(clean, self._penalty(), key, self.steps, self.rate)
        topology, scales = clean.topology, clean.scales
        stored = jax.tree.map(jnp.asarray, params)
        return lambda images: split.apply(topology, stored, images) * scales

    def _penalty(self) -> Penalty | None:
        return None


@dataclasses.dataclass(frozen=True)
class NoPeek(EarlyExit):
    """The same, with a penalty on the distance correlation of pictures and representations.

    Attributes:
        weight: of the penalty, beside the exit's cross-entropy.
    """

    name: ClassVar[str] = "nopeek"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight", "0 or more", 0 <= self.weight < float("inf"))

    def _penalty(self) -> Penalty:
        return Penalty(lambda _, images, z: self.weight * distance_correlation(images, z))


class EarlyExitNN(nn.Module):
    """Representation -> logits: the mean over the picture, and one dense layer."""

    num_answers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, num_answers]."""
        return nn.Dense(self.num_answers)(jnp.copysign(jnp.log1p(jnp.abs(x)), x).mean(axis=(1, 2)))


def adapted_params(
    clean: Scenario,
    penalty: Penalty | None,
    key: jax.Array,
    steps: int,
    rate: float,
    represent: Representing | None = None,
) -> Mapping[str, Any]:
    """Returns `split.local_params` of a scenario's topology, after training on auxiliary pictures.

    What represents images is the normalised local NN unless it is given.
    UserError: training diverged, or the weights are not at hand.
    """
    own = dict(pretrained_params(clean))
    fixed, pictures = own.pop("preprocessing"), clean.parts.auxiliary
    exit_nn = EarlyExitNN(clean.parts.num_answers)
    usual = task_of(exit_nn, pictures.several is not None)
    penalty = penalty or Penalty(lambda *_: 0.0)
    represent = represent or (lambda given, x: split.apply(clean.topology, given, x) * clean.scales)

    def init(key: jax.Array, images: jax.Array) -> Any:
        side = clean.features.parts["auxiliary"].shape[1]
        example = jnp.zeros((1, side, side, clean.topology.depth))
        return {
            "local": jax.tree.map(jnp.asarray, own),
            "exit": usual.init(key, example),
            "penalty": penalty.init(key, example),
        }

    def predict(params: Any, _: Any, images: jax.Array) -> Any:
        images = images / 255.0
        stored = {**params["local"], "preprocessing": fixed}
        z = represent(stored, images)
        return usual.predict(params["exit"], (), z), penalty.of(params["penalty"], images, z)

    def loss(found: Any, answers: jax.Array) -> jax.Array:
        logits, added = found
        return usual.loss(logits, answers) + added

    def optimiser(rate: float, weight_decay: float) -> optax.GradientTransformation:
        return optax.chain(adamw(rate, weight_decay), optax.stateless(paced))

    def paced(updates: Any, _: Any) -> Any:
        own = jax.tree.map(lambda x: penalty.pace * x, updates["penalty"])
        return {**updates, "penalty": own}

    functions = {"init": init, "predict": predict, "loss": loss, "optimiser": optimiser}
    task = dataclasses.replace(usual, name="early exit", **functions)
    rows = np.arange(len(pictures))
    member = Member(key, pictures.images, pictures.answers, rows, rate)
    [trained] = train(task, [member], Course(steps, _BATCH))
    if trained.diverged:
        raise UserError(
            f"the local NN diverged while it was adapted, with a rate of {rate:g}; give a lower one"
        )
    return {**trained.params["local"], "preprocessing": fixed}


def pretrained_params(clean: Scenario) -> Mapping[str, Any]:
    """Returns `split.local_params` before; UserError: the weights are not at hand."""
    if clean.weights is None:
        raise UserError("an adapted local NN starts from the pretrained one; give its weights")
    return split.local_params(clean.weights.params, clean.topology)


def distance_correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns how much two arrays of N rows each depend on each other, 0 to 1.

    Szekely, Rizzo and Bakirov 2007, doi:10.1214/009053607000000505, of the sample, V-statistics.
    """
    a, b = (_centred(_distances(v.reshape(len(v), -1))) for v in (x, y))
    shared, own, others = (jnp.mean(p * q) for p, q in ((a, b), (a, a), (b, b)))
    return jnp.sqrt(jnp.maximum(shared, 0) / jnp.sqrt(own * others + _TINY) + _TINY)


def _distances(rows: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(rows[:, None] - rows[None]), axis=-1)
    # The root has no gradient at 0, which a row's distance from itself is.
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def _centred(distances: jax.Array) -> jax.Array:
    rows, columns = (distances.mean(axis=axis, keepdims=True) for axis in (0, 1))
    return distances - rows - columns + distances.mean()
