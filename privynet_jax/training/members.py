"""One network in training: what it brings, how far it has come, and what becomes of it.

`trainer` trains members side by side; nothing here depends on which, or on devices.

    member = Member(key, representations, labels, rows, learning_rate=2e-3)
    progress = Progress(member, task, Course(steps=300, batch_size=32))
    next(progress.rows(step=0))  # int [32]
    progress.validate(state, ends_cycle=True)
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from privynet_jax.training.batches import ordered_rows, positions_of, shuffled_rows
from privynet_jax.training.checkpoints import Arrays
from privynet_jax.training.convergence import (
    CONVERGED_PERCENT,
    Course,
    Validation,
    falling_percent_per_doubling,
    without_progress,
)
from privynet_jax.training.prediction import measured
from privynet_jax.training.steps import Constants, State
from privynet_jax.training.tasks import Task, check_learning_rate

# Of what a checkpoint keeps of a member: one with another layout is not taken.
_LAYOUT = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One network.

    Attributes:
        key: from which everything random in its training is derived.
        inputs: representations [N, h, w, D]: an array, or what reads rows (`row_views`). Of one
            shape in all members but for N.
        targets: labels int [N], or images uint8 [N, H, W, 3].
        rows: int [n], which of them it learns from.
        learning_rate: the peak of each cycle.
        held_out: int [m], which of them it is judged by; none: it is not judged.
        constants: what the task is given besides; of one shape in all members.
        begun: an earlier training of the same network, which goes on.
        in_order: rows are met in their own order, again and again, not in shuffled epochs: for
            inputs that are made as they are read.
    """

    key: jax.Array
    inputs: Any
    targets: Any
    rows: np.ndarray
    learning_rate: float
    held_out: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    constants: Any = ()
    begun: "Trained | None" = None
    in_order: bool = False

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ValueError("Expected at least one row to learn from, got none.")
        check_learning_rate(self.learning_rate)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What became of a member."""

    params: Any  # NumPy arrays, of the best validation; of members that are not judged the last
    state: State  # with which training goes on
    steps: int  # taken so far, earlier trainings included
    epochs: float  # how often each row was seen in them
    losses: np.ndarray  # float32 [steps]
    history: tuple[Validation, ...]
    falling_percent: float  # by how much the held-out error fell per doubling of training

    @property
    def converged(self) -> bool:
        """Whether twice the training would gain little; see `convergence`.

        Never before each example was seen once: a network that has hardly begun gains little too.
        """
        return self.epochs >= 1 and self.falling_percent <= CONVERGED_PERCENT

    @property
    def diverged(self) -> bool:
        """Whether its last loss or validation is no number."""
        last = self.history[-1].means.values() if self.history else ()
        return not all(map(math.isfinite, (*self.losses[-1:], *last)))


class Progress:
    """How far a member has come."""

    def __init__(self, member: Member, task: Task, course: Course) -> None:
        self._member, self._task, self._course = member, task, course
        # Of its network's initial values; of the order of its examples and what `Task.draw` draws.
        self.initial_key, self.key = jax.random.split(jax.random.fold_in(member.key, task.stream))
        begun, self._final = member.begun, None
        self.before = begun.steps if begun else 0
        self._losses: list[np.ndarray] = [begun.losses] if begun else []
        self._history = list(begun.history) if begun else []
        # What was never judged is no best: the last params are its result.
        self._best = begun.params if begun and begun.history else None

    @property
    def stopped(self) -> bool:
        """Whether it has ended before the course: nothing changes it any more."""
        return self._final is not None

    def expected_steps(self, step: int) -> float:
        """How many steps of this course it will likely take, of which so many are taken.

        All of them where a validation has just brought something better; from there on ever fewer,
        down to those after which patience ends.
        """
        course = self._course
        if self.stopped or not (course.patience and self._history):
            return step if self.stopped else course.steps
        patience = course.patience * course.interval
        since = step + self.before - self._history[-1 - self._stale].step
        saved = max(0, course.steps - (step - since + patience))
        return course.steps - saved * min(1.0, since / patience)

    @property
    def constants(self) -> Constants:
        """What each of its steps is given."""
        width, positions = self._member.inputs.shape[-1], positions_of(self._member.inputs)
        return Constants(
            self._member.constants,
            np.asarray(jax.random.key_data(self.key)),
            np.pad(positions, (0, width - len(positions))).astype(np.int32),
            np.arange(width) < len(positions),
        )

    def rows(self, step: int) -> Iterator[np.ndarray]:
        """Mini-batches from a step of this course on."""
        rows, size = self._member.rows, self._course.batch_size
        shuffled = functools.partial(shuffled_rows, self.key)
        order = (ordered_rows if self._member.in_order else shuffled)(rows, size)
        return itertools.islice(order, self.before + step, None)

    def add_losses(self, values: np.ndarray) -> None:
        """Notes the losses of the next steps."""
        if not self.stopped:
            self._losses.append(np.float32(values))

    def validate(self, state: State, ends_cycle: bool) -> None:
        """Looks at the held-out rows once per step, unless it has ended."""
        member, losses = self._member, self._all_losses
        judged = self._history and self._history[-1].step == len(losses)
        if self.stopped or judged or not len(member.held_out):
            return
        data = (member.constants, member.inputs, member.targets, member.held_out)
        values = measured(self._task, state.params, *data)
        means = {name: float(np.mean(x, dtype=np.float64)) for name, x in values.items()}
        since = self._history[-1].step if self._history else 0
        loss = float(np.mean(losses[since:], dtype=np.float64)) if len(losses) > since else math.nan
        best = max(map(self._score, self._history), default=None)
        now = Validation(len(losses), means, ends_cycle, loss)
        self._history.append(now)
        if best is None or self._score(now) > best:
            self._best = state.params
        finite = all(map(math.isfinite, (*losses[-1:], *means.values())))
        if not finite or 0 < self._course.patience <= self._stale:
            self._final = state

    def result(self, state: State) -> Trained:
        """Returns what the trainer does, from the group's last state of this member."""
        state, losses = self._final or state, self._all_losses
        return Trained(
            params=state.params if self._best is None else self._best,
            state=state,
            steps=len(losses),
            epochs=len(losses) * self._course.batch_size / len(self._member.rows),
            losses=losses,
            history=tuple(self._history),
            falling_percent=falling_percent_per_doubling(self._history, self._task.error),
        )

    def identity(self) -> bytes:
        """Returns what tells this training from others of its task: a checkpoint's must be it."""
        member, course = self._member, dataclasses.astuple(self._course)
        told = (_LAYOUT, self._task.name, course, self.before)
        told += (member.learning_rate, member.inputs.shape, member.in_order)
        key = np.asarray(jax.random.key_data(member.key)).tobytes()
        arrays = (positions_of(member.inputs), member.rows, member.held_out)
        return b" ".join(
            [repr(told).encode(), key, *(np.int64(array).tobytes() for array in arrays)]
        )

    def arrays(self, state: State) -> Arrays:
        """Returns what a checkpoint keeps, by name."""
        history = json.dumps([moment._asdict() for moment in self._history])
        arrays = {
            "losses": self._all_losses,
            "stopped": np.asarray(self.stopped),
            "history": np.frombuffer(history.encode(), np.uint8),
        }
        for kind, tree in (("best", self._best), ("state", self._final or state)):
            leaves = enumerate(jax.tree.leaves(tree))  # None has none
            arrays |= {f"{kind}/{index:05d}": leaf for index, leaf in leaves}
        return arrays

    def restore(self, arrays: Arrays, like: State) -> State:
        """Goes back to where `arrays` was called; returns the state, of another's structure."""
        history = json.loads(arrays["history"].tobytes())
        self._losses, self._history = [arrays["losses"]], [Validation(**each) for each in history]
        best, leaves = (
            [values for _, values in sorted(below(f"{kind}/", arrays).items())]
            for kind in ("best", "state")
        )
        self._best = jax.tree.structure(like.params).unflatten(best) if best else None
        state = jax.tree.structure(like).unflatten(leaves)
        self._final = state if arrays["stopped"] else None
        return state

    def _score(self, moment: Validation) -> tuple[float, ...]:
        """What is no number is worse than anything."""
        score = self._task.score(moment.means)
        return tuple(x if math.isfinite(x) else -math.inf for x in score)

    @property
    def _stale(self) -> int:
        """Validations in a row that brought nothing better."""
        return without_progress([self._score(moment) for moment in self._history])

    @property
    def _all_losses(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self._losses])


def below(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns what has a prefix, without it."""
    start = len(prefix)
    return {name[start:]: array for name, array in arrays.items() if name.startswith(prefix)}
