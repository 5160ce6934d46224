"""Trained inverse networks: representation -> image, learnt from pairs.

Each adds a correction to the closed-form linear estimate, so that training only spends its budget
on what a linear map cannot do; the baselines of `experiments` do without. Which network and which
learning rate are chosen by `tuning` within one budget.

    attack = inverse_network("strong", Budget(steps=2000))
    [fitted] = attack.fit([scene.pairs()], [Knowledge(PAIRS)], [jax.random.key(0)])
    fitted.reconstruct(representations), fitted.report["converged"]
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from privynet_jax.attacks.base import PAIRS, Knowledge, Pairs, Report
from privynet_jax.attacks.closed_form import LinearInversion, linear_attacks
from privynet_jax.attacks.tuning import Budget, Candidate, Problem, Tuned, tune
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import CAPACITIES, Capacity
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.prediction import predicted


@dataclasses.dataclass(frozen=True, eq=False)
class FittedInverse:
    """A trained inverse network."""

    tuned: Tuned
    linear: LinearAttack

    @property
    def report(self) -> Report:
        """What tuning chose, and whether training had converged; see `Tuned.report`."""
        return self.tuned.report

    def reconstruct(self, representations: np.ndarray) -> np.ndarray:
        """float32 [N, h, w, D] -> estimates float32 [N, H, W, 3] in [0, 1]."""
        expected = self.linear.kernel.shape[2]
        if np.ndim(representations) != 4 or representations.shape[-1] != expected:
            raise UserError(
                f"representations of shape {np.shape(representations)}; this attack was fitted on "
                f"[N, h, w, {expected}]; give the same topology's"
            )
        task = self.tuned.candidate.task
        return predicted(task, self.tuned.params, self.linear, representations)


@dataclasses.dataclass(frozen=True)
class InverseNetwork:
    """A trained inverse network behind the interface of all attacks; made by `inverse_network`.

    Attributes:
        name: what results call it.
        capacities: networks that compete.
        budget: for all of them together.
        rate_factors: multiples of each capacity's learning rate that compete, best guess first.
        dtype: of the networks' arithmetic.
        wrapped: what is done to each network; it keeps its call and its `image_size`.
        least_pairs: one is held out, and the linear start needs two.
    """

    name: str
    capacities: tuple[Capacity, ...]
    budget: Budget
    rate_factors: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    wrapped: Callable[[nn.Module], nn.Module] = lambda network: network
    knowledge: str = PAIRS
    least_pairs: ClassVar[int] = LinearInversion.least_pairs + 1

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedInverse]:
        """Chooses and trains; see `base.Attack.fit`. Needs no knowledge beside pairs."""
        for pairs in scenes:
            if len(pairs.images) < self.least_pairs:
                raise UserError(
                    f"the attack {self.name} was given {len(pairs.images)} pairs; allowed are "
                    f"{self.least_pairs} or more"
                )
        size = scenes[0].images.shape[1]
        tasks = {own.name: own.task(size, self.dtype, self.wrapped) for own in self.capacities}
        candidates = [
            Candidate(own.name, tasks[own.name], factor * own.learning_rate)
            for factor in self.rate_factors
            for own in self.capacities
        ]
        starts = linear_attacks(scenes, on_both=False)
        problems = [Problem(*each) for each in zip(scenes, starts, keys, strict=True)]
        found = tune(candidates, problems, self.budget)
        return [FittedInverse(*each) for each in zip(found, starts, strict=True)]


def inverse_network(
    capacity: str | Sequence[str] = "strong",
    budget: Budget | None = None,
    rate_factors: Sequence[float] = (1.0, 2.0, 0.5),
    known: Mapping[str, Capacity] = CAPACITIES,
) -> InverseNetwork:
    """Returns the attack with one network, or with the best of several.

    Args:
        capacity: a name, or names that compete.
        budget: for everything; None means `Budget()`.
        rate_factors: multiples of the usual learning rates that compete.
        known: networks by name.

    Raises:
        UserError: an unknown capacity, or nothing to choose from.
    """
    names = (capacity,) if isinstance(capacity, str) else tuple(capacity)
    unknown = [name for name in names if name not in known]
    if unknown or not names or not rate_factors:
        raise UserError(
            f"capacities {', '.join(names) or 'none'} at {len(rate_factors)} learning rates; "
            f"allowed are {', '.join(known)}, at one rate or more"
        )
    chosen = tuple(known[name] for name in names)
    return InverseNetwork("+".join(names), chosen, budget or Budget(), tuple(rate_factors))
