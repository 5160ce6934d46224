"""Local NNs that learn on public pictures first, and are frozen then.

By an exit of its own the local NN learns the public pictures' classes, so that nothing has to come
back from the cloud while it trains (Sepehri et al., arXiv:2303.02384). Mechanisms that inherit from
`EarlyExit` add terms to its loss, and networks that learn with it, such as adversaries. What
results runs on the device like any other, and is as secret as the plan: only whoever has it has the
released channels. The public pictures are the attackers' own.

    params = adapted_params(clean, EarlyExit(), key)
    params["local"], params["adversary"]  # the latter of mechanisms that have one
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone import split
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.parts import Parts
from privynet_jax.mechanisms.mechanism import Local, Mechanism
from privynet_jax.platform.devices import on_cpu
from privynet_jax.training.optimisers import adamw
from privynet_jax.training.tasks import Task, task_of
from privynet_jax.training.trainer import Course, Member, train

# Name of a network -> its parameters; "local" and "exit" are always there.
Params = Mapping[str, Any]
_BATCH = 32
# How much faster networks beside local NN and exit learn: an adversary has to keep up.
_PACE = 10.0


class Seen(NamedTuple):
    """What a mechanism's own term of the loss is computed from, of one batch."""

    params: Params  # of all networks that learn
    images: jax.Array  # float32 [B, H, W, 3]
    z: jax.Array  # normalised representations, float32 [B, h, w, D]
    private: jax.Array  # int [B], the attribute that is to stay private, or zeros
    key: jax.Array  # of this step
    topology: Topology
    represent: Local  # what makes z of images


@dataclasses.dataclass(frozen=True)
class EarlyExit(Mechanism):
    """The local NN, trained on public pictures by an early exit.

    Attributes:
        steps: of 32 pictures.
        rate: peak of the learning rate.
    """

    name: ClassVar[str] = "early_exit"
    not_planned: ClassVar[str] = "its local NN has weights of its own, which no package carries"
    trains_local: ClassVar[bool] = True
    steps: int = 300
    rate: float = 3e-4

    def __post_init__(self) -> None:
        self._check("steps", "1 or more", self.steps >= 1)
        self._check("rate", "more than 0, to 1", 0 < self.rate <= 1)

    def local(self, clean: Scenario, key: jax.Array) -> Local:
        """Trains; returns images -> normalised representation of the released channels."""
        params = jax.tree.map(jnp.asarray, adapted_params(clean, self, key))
        represent, used = self.representing(clean), jax.jit(_tiled)(self.used(params))
        return lambda images: self.released(params, represent(used, images))

    def representing(self, clean: Scenario) -> Callable[[Params, jax.Array], jax.Array]:
        """Returns (local NN's parameters, images float32 [N, H, W, 3]) -> representations."""
        topology, scales = clean.topology, clean.scales
        return lambda params, images: applied(topology, params, images) * scales

    def begun(self, key: jax.Array, seen: Seen) -> Params:
        """Returns the networks that learn beside the local NN and its exit, from a first batch."""
        return {}

    def used(self, params: Params) -> Params:
        """Returns the local NN's parameters as they are used, where some are pruned."""
        return params["local"]

    def released(self, params: Params, z: jax.Array) -> jax.Array:
        """Returns what is released of representations, which the exit sees as well."""
        return z

    def term(self, seen: Seen) -> jax.Array | float:
        """Returns what is added to the exit's loss."""
        return 0.0

    def private(self, parts: Parts) -> np.ndarray:
        """Returns what is to stay private of auxiliary pictures, int [P]; here nothing."""
        return np.zeros(len(parts.auxiliary), int)


class EarlyExitNN(nn.Module):
    """Representation -> logits: the mean over the picture, and one dense layer."""

    num_answers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, num_answers]."""
        return nn.Dense(self.num_answers)(jnp.copysign(jnp.log1p(jnp.abs(x)), x).mean(axis=(1, 2)))


def adapted_params(clean: Scenario, mechanism: EarlyExit, key: jax.Array) -> Params:
    """Returns all networks' parameters after training on a scenario's auxiliary pictures.

    Those of "local" are as `split.local_params` has them.
    DivergedError: training did. UserError: the weights or what is to stay private are not at hand.
    """
    fixed = pretrained_params(clean)["preprocessing"]
    pictures, several = clean.parts.auxiliary, clean.parts.auxiliary.several is not None
    # The trainer knows one array of answers: what is private is its last column.
    answers = pictures.answers.reshape(len(pictures), -1)
    targets = np.column_stack([answers, mechanism.private(clean.parts)]).astype(np.int32)
    rows = np.arange(len(pictures))
    member = Member(key, pictures.images, targets, rows, mechanism.rate)
    task = _adapting_task(clean, mechanism, several)
    [trained] = train(task, [member], Course(mechanism.steps, _BATCH))
    if trained.diverged:
        raise DivergedError(
            f"the local NN diverged while it was adapted, with a rate of {mechanism.rate:g}; "
            "give a lower one"
        )
    return {**trained.params, "local": {**trained.params["local"], "preprocessing": fixed}}


def applied(
    topology: Topology, params: Params, images: jax.Array, is_rectified: bool = True
) -> jax.Array:
    """As `split.apply`, by what a CPU takes half the time for."""
    return split.apply(topology, _tiled(params), images, is_rectified)


def _tiled(params: Params) -> Params:
    """Parameters for this machine; those that have been here are left as they are."""
    return split.with_tiles(params) if on_cpu() and split.TILES not in params else params


def _adapting_task(clean: Scenario, mechanism: EarlyExit, several: bool) -> Task:
    """All losses at once: who must not learn from one is hidden from it by `stop_gradient`."""
    own = dict(pretrained_params(clean))
    fixed, represent = own.pop("preprocessing"), mechanism.representing(clean)
    exit_nn = EarlyExitNN(clean.parts.num_answers)
    usual = task_of(exit_nn, several)

    def draw(key: jax.Array, _: Any, images: jax.Array, targets: jax.Array) -> Any:
        return (images, targets[:, -1], key), targets

    def seen_with(params: Params, inputs: Any, used: Any) -> Seen:
        (images, private, key), local = inputs, {**params["local"], "preprocessing": fixed}
        images, params = images / 255.0, {**params, "local": local}
        represents = functools.partial(represent, used(params))
        z = represents(images)
        return Seen(params, images, z, private, key, clean.topology, represents)

    def init(key: jax.Array, inputs: Any) -> Params:
        of_exit, of_others = jax.random.split(key)
        begun = {"local": jax.tree.map(jnp.asarray, own)}
        first = seen_with(begun, inputs, operator.itemgetter("local"))
        others = mechanism.begun(of_others, first)
        return {**begun, "exit": usual.init(of_exit, first.z), **others}

    def predict(params: Params, _: Any, inputs: Any) -> tuple[jax.Array, Seen]:
        seen = seen_with(params, inputs, mechanism.used)
        released = mechanism.released(seen.params, seen.z)
        return usual.predict(params["exit"], (), released), seen

    def loss(found: tuple[jax.Array, Seen], targets: jax.Array) -> jax.Array:
        logits, seen = found
        answers = targets[:, :-1] if several else targets[:, 0]
        return usual.loss(logits, answers) + mechanism.term(seen)

    changed = {"init": init, "predict": predict, "loss": loss, "draw": draw}
    return dataclasses.replace(usual, name="early exit", optimiser=_paced_adamw, **changed)


def pretrained_params(clean: Scenario) -> Params:
    """Returns `split.local_params` before; UserError: the weights are not at hand."""
    if clean.weights is None:
        raise UserError("an adapted local NN starts from the pretrained one; give its weights")
    return split.local_params(clean.weights.params, clean.topology)


def _paced_adamw(rate: float, weight_decay: float) -> optax.GradientTransformation:
    def paced(updates: Params, _: Any) -> Params:
        slow = {"local", "exit"}
        return {
            name: own if name in slow else jax.tree.map(lambda x: _PACE * x, own)
            for name, own in updates.items()
        }

    return optax.chain(adamw(rate, weight_decay), optax.stateless(paced))
