"""Trained inverse networks: representation -> image, learnt from pairs.

Each adds a correction to the closed-form linear estimate, so that training only spends its budget
on what a linear map cannot do. Which network and which learning rate are chosen by `tuning` within
one budget. `registry.Training.network` makes those that commands know.

    attack = InverseNetwork("strong", (CAPACITIES["strong"],), Budget(steps=2000))
    [fitted] = attack.fit([scene.pairs()], [Knowledge(PAIRS)], [jax.random.key(0)])
    fitted.reconstruct(representations), fitted.report["converged"]
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from privynet_jax.attacks.base import PAIRS, FittedAttack, Knowledge, Pairs
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.tuning import Budget, Candidate, Problem, Tuned, tune
from privynet_jax.errors import UserError
from privynet_jax.training.models.attackers import Capacity
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.prediction import predicted

_LEAST_PAIRS = 3  # one is held out


@dataclasses.dataclass(frozen=True)
class InverseNetwork:
    """A trained inverse network behind the interface of all attacks.

    Attributes:
        name: what results call it.
        capacities: networks that compete.
        budget: for all of them together.
        rate_factors: multiples of each capacity's learning rate that compete, best guess first.
        dtype: of the networks' arithmetic.
        wrapped: what is done to each network; it keeps its call and its `image_size`.
    """

    name: str
    capacities: tuple[Capacity, ...]
    budget: Budget
    rate_factors: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    wrapped: Callable[[nn.Module], nn.Module] = lambda network: network
    knowledge: str = PAIRS

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Chooses and trains; see `base.Attack.fit`. Needs no knowledge beside pairs."""
        # Of images: copies tell no more of the pixels that are to be found.
        count = min(len(pairs.images) // pairs.copies for pairs in scenes)
        if count < _LEAST_PAIRS:
            raise UserError(
                f"the attack {self.name} was given {count} pairs; "
                f"allowed are {_LEAST_PAIRS} or more"
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
        return [
            FittedAttack(functools.partial(_reconstructed, tuned, start), tuned.report)
            for tuned, start in zip(found, starts, strict=True)
        ]


def _reconstructed(tuned: Tuned, linear: LinearAttack, representations: np.ndarray) -> np.ndarray:
    expected = linear.kernel.shape[2]
    if np.ndim(representations) != 4 or representations.shape[-1] != expected:
        raise UserError(
            f"representations of shape {np.shape(representations)}; this attack was fitted on "
            f"[N, h, w, {expected}]; give the same topology's"
        )
    return predicted(tuned.candidate.task, tuned.trained.params, linear, representations)
