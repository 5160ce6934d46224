"""One network in training: what it brings, how far it has come, and what becomes of it.

`trainer` trains members side by side; nothing here depends on which, or on devices.

    member = Member(key, representations, labels, rows, learning_rate=2e-3)
    progress = Progress(member, task, Course(steps=300, batch_size=32))
    next(progress.rows(step=0))  # int [32]
    progress.validate(state, ends_cycle=True)
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from privynet_jax.training.batches import shuffled_rows
from privynet_jax.training.checkpoints import Arrays
from privynet_jax.training.convergence import (
    Validation,
    falling_percent_per_doubling,
    has_converged,
    without_progress,
)
from privynet_jax.training.prediction import measured
from privynet_jax.training.steps import State, init_state
from privynet_jax.training.tasks import Task

_NO_ROWS = np.zeros(0, int)


@dataclasses.dataclass(frozen=True)
class Course:
    """How long members are trained, and when they are looked at.

    Attributes:
        steps: mini-batches.
        batch_size: examples of each.
        cycles: shares of the steps; each is a warm-up and a cosine down to zero.
        validations: how often held-out examples are looked at besides the ends of cycles.
        patience: validations in a row without anything better that end a training; 0: none do.
        seconds: of wall-clock time without compilation, instead of steps; results then depend on
            the machine and on what else it does.
    """

    steps: int
    batch_size: int
    cycles: tuple[float, ...] = (1.0,)
    validations: int = 0
    patience: int = 0
    seconds: float | None = None


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
    """

    key: jax.Array
    inputs: Any
    targets: Any
    rows: np.ndarray
    learning_rate: float
    held_out: np.ndarray = dataclasses.field(default_factory=lambda: _NO_ROWS)
    constants: Any = ()
    begun: "Trained | None" = None


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What became of a member.

    Attributes:
        params: NumPy arrays: those of the best validation; of members that are not judged the last.
        state: with which training goes on.
        steps: taken so far, earlier trainings included.
        epochs: how often each row was seen in them.
        losses: float32 [steps].
        history: validations.
        falling_percent: by how much the held-out error fell per doubling of training.
    """

    params: Any
    state: State
    steps: int
    epochs: float
    losses: np.ndarray
    history: tuple[Validation, ...]
    falling_percent: float

    @property
    def converged(self) -> bool:
        """Whether twice the training would gain little; see `convergence`."""
        return has_converged(self.falling_percent, self.epochs)

    @property
    def diverged(self) -> bool:
        """Whether its last loss or validation is no number."""
        last = self.history[-1].means.values() if self.history else ()
        return not all(map(math.isfinite, (*self.losses[-1:], *last)))


class Progress:
    """How far one member has come."""

    def __init__(self, member: Member, task: Task, course: Course) -> None:
        self._member, self._task, self._course = member, task, course
        self.initial_key, self._shuffling = jax.random.split(
            jax.random.fold_in(member.key, task.stream)
        )
        self.before = member.begun.steps if member.begun else 0
        self.stopped = False
        self._losses: list[np.ndarray] = [member.begun.losses] if member.begun else []
        self._history = list(member.begun.history) if member.begun else []
        self._best = member.begun.params if member.begun else None

    def rows(self, step: int) -> Iterator[np.ndarray]:
        """Mini-batches from a step of this course on."""
        order = shuffled_rows(self._shuffling, self._member.rows, self._course.batch_size)
        return itertools.islice(order, self.before + step, None)

    def add_losses(self, values: np.ndarray) -> None:
        self._losses.append(np.float32(values))

    def validate(self, state: State, ends_cycle: bool) -> None:
        """Looks at the held-out rows, unless patience has ended."""
        if self.stopped:
            return
        member, losses = self._member, self._all_losses
        values = measured(
            self._task,
            state.params,
            member.constants,
            member.inputs,
            member.targets,
            member.held_out,
        )
        means = {name: float(np.mean(x, dtype=np.float64)) for name, x in values.items()}
        since = self._history[-1].step if self._history else 0
        loss = float(np.mean(losses[since:], dtype=np.float64)) if len(losses) > since else math.nan
        best = max(map(self._score, self._history), default=None)
        now = Validation(len(losses), means, ends_cycle, loss)
        self._history.append(now)
        if best is None or self._score(now) > best:
            self._best = state.params
        finite = all(map(math.isfinite, (*losses[-1:], *means.values())))
        stale = without_progress([self._score(moment) for moment in self._history])
        self.stopped = not finite or 0 < self._course.patience <= stale

    def result(self, state: State) -> Trained:
        """What the trainer returns."""
        return Trained(
            params=state.params if self._best is None else self._best,
            state=state,
            steps=len(self._all_losses),
            epochs=len(self._all_losses) * self._course.batch_size / len(self._member.rows),
            losses=self._all_losses,
            history=tuple(self._history),
            falling_percent=falling_percent_per_doubling(self._history, self._task.error),
        )

    def arrays(self, state: State) -> Arrays:
        """What a checkpoint keeps."""
        names = sorted(self._history[0].means) if self._history else []
        history = [
            [m.step, m.ends_cycle, m.training_loss, *(m.means[n] for n in names)]
            for m in self._history
        ]
        best = [] if self._best is None else jax.tree.leaves(self._best)
        return {
            "losses": self._all_losses,
            "history": np.array(history, np.float64).reshape(len(history), 3 + len(names)),
            "stopped": np.asarray(self.stopped),
            **{f"best/{i:05d}": x for i, x in enumerate(best)},
            **{f"state/{i:05d}": x for i, x in enumerate(jax.tree.leaves(state))},
        }

    def restore(self, arrays: Arrays) -> State:
        """Goes back to where `arrays` was called; returns the state."""
        self._losses, self.stopped = [arrays["losses"]], bool(arrays["stopped"])
        shapes = jax.eval_shape(self._initial_state)
        leaves = {
            kind: [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]
            for kind in ("best", "state")
        }
        if leaves["best"]:
            self._best = jax.tree.structure(shapes.params).unflatten(leaves["best"])
        names = self._measures() if len(arrays["history"]) else []
        self._history = [
            Validation(int(step), dict(zip(names, means, strict=True)), bool(ends), loss)
            for step, ends, loss, *means in arrays["history"].tolist()
        ]
        return jax.tree.structure(shapes).unflatten(leaves["state"])

    def _initial_state(self) -> State:
        example = np.zeros((1, *self._member.inputs.shape[1:]), np.float32)
        if self._task.draw is not None:
            targets = np.asarray(self._member.targets[:1])
            example, _ = self._task.draw(self.initial_key, self._member.constants, example, targets)
        return init_state(self._task, self.initial_key, example)

    def _measures(self) -> list[str]:
        def of_one() -> dict[str, jax.Array]:
            x = np.zeros((1, *self._member.inputs.shape[1:]), np.float32)
            outputs = self._task.predict(self._initial_state().params, self._member.constants, x)
            targets = np.zeros((1, *self._member.targets.shape[1:]), self._member.targets.dtype)
            return self._task.measure(outputs, targets)

        return sorted(jax.eval_shape(of_one))

    def _score(self, moment: Validation) -> tuple[float, ...]:
        """Of a validation; what is no number is worse than anything."""
        score = self._task.score(moment.means)
        return tuple(x if math.isfinite(x) else -math.inf for x in score)

    @property
    def _all_losses(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self._losses])
