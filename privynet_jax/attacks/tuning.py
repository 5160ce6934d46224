"""Spends an attacker's budget: chooses network and rate, trains, and says if it was enough.

Candidates, each a network with a learning rate, are trained for a short while; the better half goes
on, until one is left, which gets most of the budget. They are judged by a held-out share of the
attacker's own pairs. Training comes in cycles (`training.convergence`), because a network is only
comparable once its learning rate has gone down. Several topologies are tuned side by side.

    problems = [Problem(pairs, linear_attack, key)]
    [tuned] = tune(candidates, problems, Budget(steps=2000))
    tuned.trained.params, tuned.report["converged"]
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from privynet_jax.attacks.base import Pairs, Report
from privynet_jax.errors import UserError
from privynet_jax.training.extrapolation import expected_gain
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.session import current_session, session
from privynet_jax.training.tasks import Task
from privynet_jax.training.trainer import Course, Member, Trained, train

# Share of the budget that each halving of the candidates costs.
_HALVING_SHARE = 0.125
# The last candidate's training is cut into two cycles, of which the first takes this share.
_FIRST_CYCLE = 0.3


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
        unit = "steps" if self.seconds is None else "seconds"
        if not (0 < self.amount < math.inf) or self.batch_size < 1:
            raise UserError(
                f"a budget of {self.amount:g} {unit} with {self.batch_size} examples per step; "
                "allowed are positive numbers; give more"
            )

    @property
    def amount(self) -> float:
        """Steps, or seconds."""
        return float(self.steps) if self.seconds is None else self.seconds

    def course(self, amount: float, cycles: tuple[float, ...] = (1.0,)) -> Course:
        """Returns the training that so much of the budget buys."""
        if self.seconds is None:
            return Course(max(len(cycles), round(amount)), self.batch_size, cycles)
        return Course(self.steps, self.batch_size, cycles, seconds=max(1e-3, amount))


class Candidate(NamedTuple):
    """One way to train: what reports call the network, its task, and its peak learning rate.

    Candidates that share a task share its compilation.
    """

    capacity: str
    task: Task
    learning_rate: float


class Problem(NamedTuple):
    """One topology for which a network is to be found; some of its pairs are held out."""

    pairs: Pairs
    constants: Any  # what the tasks are given besides: the linear attack
    key: jax.Array  # of initial values, which all candidates share, and of the order of examples

    def member(self, candidate: Candidate, begun: Trained | None) -> Member:
        """Returns a candidate's network as the trainer takes it."""
        rows, held_out = self.pairs.hold_out()
        data, rate = (self.pairs.representations, self.pairs.images), candidate.learning_rate
        order = self.pairs.in_training_order()
        if order is not None:
            rows = order
        return Member(
            self.key, *data, rows, rate, held_out, self.constants, begun, order is not None
        )


class Tuned(NamedTuple):
    """The network that did best on the held-out pairs, and its training."""

    candidate: Candidate
    trained: Trained

    @property
    def report(self) -> Report:
        """What an attack reports of it."""
        gain = None
        if self.candidate.capacity == STRONG:  # of others it was never compared with what they did
            gain = expected_gain(self.trained.history, self.candidate.task.error)
        return {
            "capacity": self.candidate.capacity,
            "learning_rate": self.candidate.learning_rate,
            "steps": self.trained.steps,
            "held_out_psnr_db": max(moment.means["psnr_db"] for moment in self.trained.history),
            "falling_percent_per_doubling": self.trained.falling_percent,
            "converged": self.trained.converged,
            "gain_db": gain,
        }


# Candidate -> its training so far.
_Run = dict[Candidate, Trained | None]


def tune(
    candidates: Sequence[Candidate], problems: Sequence[Problem], budget: Budget
) -> list[Tuned]:
    """Trains different candidates for every problem of a layer, within a budget for each problem.

    More and more of the budget goes to fewer of them. Where all of a problem diverge, so has what
    is returned for it.
    """
    runs: list[_Run] = [dict.fromkeys(candidates) for _ in problems]
    left, count = budget.amount, len(candidates)
    while count > 1:
        amount = _HALVING_SHARE * budget.amount / count
        with _told(amount / budget.amount):
            runs = _advanced(runs, problems, budget.course(amount))
        left -= amount * count
        count = -(-count // 2)
        runs = [_best(of_problem, count) for of_problem in runs]
    # At least one step is left, whatever rounding did.
    last = budget.course(left, (_FIRST_CYCLE, 1 - _FIRST_CYCLE))
    with _told(left / budget.amount):
        finished = _advanced(runs, problems, last)
    return [Tuned(*next(iter(of_problem.items()))) for of_problem in finished]


@contextlib.contextmanager
def _told(share: float) -> Iterator[None]:
    """Counts a training as the share of a budget that it takes: an attack counts as one."""
    progress = current_session().progress
    with session(progress=lambda done: progress(share * done)):
        yield


def _advanced(runs: Sequence[_Run], problems: Sequence[Problem], course: Course) -> list[_Run]:
    """Trains all candidates of all problems further, those of one network side by side."""
    after: list[_Run] = [dict(run) for run in runs]
    everything = [(number, candidate) for number, run in enumerate(runs) for candidate in run]
    for task in dict.fromkeys(candidate.task for _, candidate in everything):
        places = [place for place in everything if place[1].task == task]
        members = [problems[number].member(own, runs[number][own]) for number, own in places]
        # Rounds of a single topology shrink to one network: they must not compile each its own.
        trained = train(task, members, course, one_per_device=len(problems) == 1)
        for (number, candidate), result in zip(places, trained, strict=True):
            after[number][candidate] = result
    return after


def _best(run: _Run, count: int) -> _Run:
    """The candidates that did best at the end of their last cycle; of equals the first ones."""

    def psnr_db(item: tuple[Candidate, Trained | None]) -> float:
        _, trained = item
        found = trained.history[-1].means["psnr_db"] if trained else -math.inf
        return found if math.isfinite(found) else -math.inf

    return dict(sorted(run.items(), key=psnr_db, reverse=True)[:count])
