"""Spends an attacker's budget: chooses network and rate, trains, and says if it was enough.

Candidates, each a network with a learning rate, are trained for a short while; the better half goes
on, until one is left, which gets most of the budget. They are judged by a held-out share of the
attacker's own pairs. Training comes in cycles (`fitting`), because a network is only comparable
once its learning rate has gone down: with other candidates, and with itself on another budget,
which is how `Tuned.falling_percent_per_doubling` tells whether it has converged.

    fitted_on, held_out = hold_out(pairs, key)
    tuned = tune(candidates, fitted_on, held_out, linear_attack, key, Budget(steps=2000))
    tuned.params, tuned.candidate.capacity, tuned.converged
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.base import Pairs, Report
from privynet_jax.attacks.fitting import Run, stream_of
from privynet_jax.errors import UserError
from privynet_jax.platform.row_views import ChosenRows
from privynet_jax.results.cell_results import CONVERGED_PERCENT
from privynet_jax.training.tasks import Task

# Share of the budget that each halving of the candidates costs.
_HALVING_SHARE = 0.125
# The last candidate's training is cut into two cycles, of which the first takes this share.
_FIRST_CYCLE = 0.3
# Held out of the pairs: this share, but no more pairs than tell candidates apart.
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 256


@dataclasses.dataclass(frozen=True)
class Budget:
    """What one attacker may spend on training, the choice of network and rate included.

    Attributes:
        steps: mini-batches, over all candidates. Everything follows from the key then.
        seconds: of wall-clock time without compilation, instead of steps; results then depend on
            the machine and on what else it does.
        batch_size: examples per mini-batch.

    Raises:
        UserError: nothing can be trained within it.
    """

    steps: int = 2000
    seconds: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        unit = "steps" if self.in_steps else "seconds"
        if not (0 < self.amount < math.inf) or self.batch_size < 1:
            raise UserError(
                f"a budget of {self.amount:g} {unit} with {self.batch_size} examples per step; "
                "allowed are positive numbers; give more"
            )

    @property
    def in_steps(self) -> bool:
        """Whether steps count, rather than seconds."""
        return self.seconds is None

    @property
    def amount(self) -> float:
        """Steps, or seconds."""
        return float(self.steps) if self.seconds is None else self.seconds


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to train.

    Attributes:
        capacity: what reports call its network.
        task: what is learnt; candidates that share it share its compilation.
        learning_rate: the peak.

    Raises:
        UserError: the learning rate is not a positive number.
    """

    capacity: str
    task: Task
    learning_rate: float

    def __post_init__(self) -> None:
        # A network that never moves would pass for one that has converged.
        if not (0 < self.learning_rate < math.inf):
            raise UserError(
                f"learning rate {self.learning_rate:g} of the network {self.capacity}; allowed "
                "are positive numbers; multiples of its usual rate from 0.1 to 10 are worth trying"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """A trained network.

    Attributes:
        params: those that did best on the held-out pairs: the last ones, or those after an earlier
            cycle, or of the start, where more training only learnt the pairs by heart.
        candidate: which won.
        steps: that it was trained for.
        held_out_psnr_db: mean over held-out pairs.
        epochs: how often it has seen each pair.
        falling_percent_per_doubling: by how much its squared error (the geometric mean over
            held-out images) fell per doubling of training, between the ends of its last two cycles.
    """

    params: Any
    candidate: Candidate
    steps: int
    epochs: float
    held_out_psnr_db: float
    falling_percent_per_doubling: float

    @property
    def converged(self) -> bool:
        """Whether doubling the budget would gain little.

        Never before each pair was seen once: a network that has hardly begun gains little too.
        """
        return self.epochs >= 1 and self.falling_percent_per_doubling <= CONVERGED_PERCENT

    @property
    def report(self) -> Report:
        """What an attack reports of it."""
        return {
            "capacity": self.candidate.capacity,
            "learning_rate": self.candidate.learning_rate,
            "steps": self.steps,
            "held_out_psnr_db": self.held_out_psnr_db,
            "falling_percent_per_doubling": self.falling_percent_per_doubling,
            "converged": self.converged,
        }


def hold_out(pairs: Pairs, key: jax.Array) -> tuple[Pairs, Pairs]:
    """Returns the pairs to learn from, and those held out, drawn at random.

    The former's representations are read out of all pairs' as they are asked for: a copy would
    take nearly as much memory again.

    Raises:
        UserError: there are fewer than two pairs.
    """
    count = len(pairs.images)
    if count < 2 or len(pairs.representations) != count:
        raise UserError(
            f"{len(pairs.representations)} representations and {count} images are no pairs to "
            "train on; allowed are 2 or more of both; give the attacker more"
        )
    held = max(1, min(_MOST_HELD_OUT, round(_HELD_OUT_SHARE * count)))
    order = stream_of(key).permutation(count)
    mine = np.sort(order[held:])
    learnt_from = Pairs(ChosenRows(pairs.representations, mine), pairs.images[mine])
    return learnt_from, pairs.chosen(np.sort(order[:held]))


def tune(
    candidates: Sequence[Candidate],
    fitted_on: Pairs,
    held_out: Pairs,
    extras: Any,
    key: jax.Array,
    budget: Budget,
) -> Tuned:
    """Trains candidates: more and more of the budget for fewer and fewer of them.

    Args:
        candidates: at least one.
        fitted_on: pairs to learn from.
        held_out: pairs to judge by; see `hold_out`.
        extras: what the tasks are given besides: the linear attack.
        key: of initial values, which all candidates share, and of the order of examples.
        budget: for all candidates together.

    Raises:
        UserError: every candidate diverged.
    """
    runs = {
        candidate: Run(
            candidate.task,
            candidate.learning_rate,
            fitted_on,
            held_out,
            extras,
            key,
            budget.batch_size,
        )
        for candidate in candidates
    }
    spent = 0.0
    while len(runs) > 1:
        for run in runs.values():
            amount = _HALVING_SHARE * budget.amount / len(runs)
            spent += run.train(amount, in_steps=budget.in_steps)
        # The sort is stable: of equals, those named first stay.
        ranked = sorted(runs, key=lambda candidate: runs[candidate].errors[-1][1])
        runs = {candidate: runs[candidate] for candidate in ranked[: -(-len(runs) // 2)]}
    ((winner, run),) = runs.items()
    for share in (_FIRST_CYCLE, 1.0):
        left = max(1e-3, budget.amount - spent)
        spent += run.train(share * left, in_steps=budget.in_steps)
    return _result(winner, run, budget.batch_size / len(fitted_on.images))


def _result(candidate: Candidate, run: Run, epochs_per_step: float) -> Tuned:
    (earlier, error_then), (later, error_now) = run.errors[-2:]
    if not math.isfinite(error_now):
        raise UserError(
            f"the network {candidate.capacity} diverged at every learning rate that was tried, "
            f"last at {candidate.learning_rate:g}; give lower ones"
        )
    ratio_per_doubling = (error_now / error_then) ** (1 / math.log2(later / earlier))
    return Tuned(
        params=run.best,
        candidate=candidate,
        steps=later,
        epochs=later * epochs_per_step,
        held_out_psnr_db=-10 * math.log10(run.best_error),
        falling_percent_per_doubling=100 * (1 - ratio_per_doubling),
    )
