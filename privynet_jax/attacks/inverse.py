"""Trained inverse networks: representation -> image, learnt from pairs.

Each adds a correction to the closed-form linear estimate, so that training only spends its budget
on what a linear map cannot do. Which network and which learning rate are chosen by `tuning` within
one budget. `registry` makes those that commands know.

    attack = InverseNetwork("strong", (CAPACITIES["strong"],), Training(Budget(steps=2000)))
    [fitted] = attack.fit([scene.pairs()], [Knowledge(PAIRS)], [jax.random.key(0)])
    fitted.reconstruct(representations), fitted.report["converged"]
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from privynet_jax.attacks.base import PAIRS, FittedAttack, Knowledge, Pairs, check_pairs, diverged
from privynet_jax.attacks.closed_form import LinearInversion, linear_attacks
from privynet_jax.attacks.tuning import Budget, Candidate, Problem, Tuned, tune
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import CAPACITIES, Capacity
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.prediction import predicted


@dataclasses.dataclass(frozen=True)
class Training:
    """How attackers train, whichever they are.

    Attributes:
        budget: of each.
        rate_factors: multiples of a network's usual learning rate that compete within it, best
            guess first.
        capacities: the inverse networks by name; `tuned` needs those of `CAPACITIES`, `public`
            and `white box` the strong one.
        dtype: of their arithmetic.
        wrapped: what is done to each network; it keeps its call and its `image_size`.

    Raises:
        UserError: a factor is no positive number, or there is none.
    """

    budget: Budget = Budget()  # noqa: RUF009 - frozen
    rate_factors: tuple[float, ...] = (1.0,)
    capacities: Mapping[str, Capacity] = dataclasses.field(
        default_factory=lambda: CAPACITIES, hash=False
    )
    dtype: str = "float32"
    wrapped: Callable[[nn.Module], nn.Module] = lambda network: network

    def __post_init__(self) -> None:
        if not self.rate_factors or not all(0 < own < math.inf for own in self.rate_factors):
            given = ",".join(map("{:g}".format, self.rate_factors))
            raise UserError(
                f"rate_factors={given}: allowed are positive numbers, one or more; 1 stands for "
                "each network's usual learning rate, and 0.1 to 10 are worth trying"
            )


@dataclasses.dataclass(frozen=True)
class InverseNetwork:
    """A trained inverse network, or the best of several that compete within the budget."""

    name: str
    capacities: tuple[Capacity, ...]
    training: Training
    knowledge: str = PAIRS
    least_pairs: ClassVar[int] = LinearInversion.least_pairs + 1  # one is held out

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Chooses and trains; see `base.Attack.fit`. Needs no knowledge beside pairs."""
        check_pairs(self.name, scenes, self.least_pairs)
        return self.trained(scenes, linear_attacks(scenes, on_both=False), keys)

    def trained(
        self, scenes: Sequence[Pairs], starts: Sequence[LinearAttack], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Chooses and trains, from linear attacks that are at hand."""
        size, training = scenes[0].images.shape[1], self.training
        tasks = [own.task(size, training.dtype, training.wrapped) for own in self.capacities]
        candidates = [
            Candidate(own.name, task, factor * own.learning_rate)
            for factor in training.rate_factors
            for own, task in zip(self.capacities, tasks, strict=True)
        ]
        problems = [Problem(*each) for each in zip(scenes, starts, keys, strict=True)]
        found = tune(candidates, problems, training.budget)
        return list(map(_fitted, found, starts))


def _fitted(tuned: Tuned, linear: LinearAttack) -> FittedAttack:
    if tuned.trained.diverged:
        return diverged(
            f"the network {tuned.candidate.capacity} diverged at every learning rate that was "
            f"tried, last at {tuned.candidate.learning_rate:g}; give lower ones"
        )
    return FittedAttack(TrainedInverse(tuned, linear), tuned.report)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedInverse:
    """What the network that was chosen makes of representations, and the estimate it corrects."""

    tuned: Tuned
    linear: LinearAttack

    def __call__(self, representations: np.ndarray) -> np.ndarray:
        """As `FittedAttack.reconstruct`; UserError for those of another depth."""
        expected = self.linear.kernel.shape[2]
        if np.ndim(representations) != 4 or representations.shape[-1] != expected:
            raise UserError(
                f"representations of shape {np.shape(representations)}; this attack was fitted on "
                f"[N, h, w, {expected}]; give the same topology's"
            )
        task, params = self.tuned.candidate.task, self.tuned.trained.params
        return predicted(task, params, self.linear, representations)
