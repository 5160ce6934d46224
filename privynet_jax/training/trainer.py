"""Trains networks side by side: the only loop over gradient steps.

A member is one network: a key, the rows that it learns from, its learning rate and constants. All
members of a call learn one task for one length. They go over the devices in groups; a member's
numbers do not depend on which others run beside it. `session` says where trainings are kept, who is
told, and when to give way.

    members = [Member(key, representations, labels, rows, learning_rate=2e-3)]
    [trained] = train(cloud_task(network), members, Course(steps=300, batch_size=32))
    trained.params, trained.converged

Room is left for batches that a function of key and step makes: that is `Task.draw`.
"""

import collections
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.devices import Execution, execution_for
from privynet_jax.training.batches import (
    gather,
    one_ahead,
    positions_of,
    resident,
    shuffled_rows,
)
from privynet_jax.training.checkpoints import Arrays
from privynet_jax.training.convergence import (
    Validation,
    falling_percent_per_doubling,
    has_converged,
    without_progress,
)
from privynet_jax.training.mapping import Constants, DoesNotFitError, MappedTask, mapped_task
from privynet_jax.training.prediction import measured
from privynet_jax.training.session import Session, current_session
from privynet_jax.training.steps import Dispatch, State, init_state
from privynet_jax.training.tasks import Task

_WARM_UP = 0.1
# Dispatches that the host may be ahead of the devices, which bounds what waits in memory.
_AHEAD = 2
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


def train(
    task: Task, members: Sequence[Member], course: Course, *, alone: bool = False
) -> list[Trained]:
    """Trains members, in groups that fill the devices.

    Args:
        task: what they learn.
        members: at least one.
        course: how long.
        alone: one after the other, each with its examples spread over the devices, as a single one
            always is.

    Raises:
        UserError: a single member does not fit into a device's memory.
        signals.Terminated: a stop was requested; the session's checkpoint has everything so far.
    """
    session, count = current_session(), 1 if alone else len(members)
    execution = execution_for(count, course.batch_size, session.spread)
    execution = _fitting(task, members[: execution.group_size], course, execution)
    size, trained = execution.group_size, []
    for start in range(0, len(members), size):
        group = members[start : start + size]
        own = course
        if course.seconds is not None:  # of each, which they spend together
            own = dataclasses.replace(course, seconds=course.seconds * len(group))
        trained += _Group(task, group, own, execution, session).train()
    return trained


def relative_rate(share: float) -> float:
    """Returns the learning rate, relative to its peak, where so much of a cycle is over."""
    if share >= 1:
        return 0.0
    if share < _WARM_UP:
        # Not zero: the first step of a short cycle may be its only one.
        return max(share / _WARM_UP, 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """Steps between two validations; all numbers are steps, or seconds."""

    stop: float
    cycle_start: float
    cycle_stop: float

    @property
    def ends_cycle(self) -> bool:
        return self.stop == self.cycle_stop

    def rate(self, now: float) -> float:
        return relative_rate((now - self.cycle_start) / (self.cycle_stop - self.cycle_start))


def _stretches(course: Course) -> list[_Stretch]:
    if course.seconds is not None:
        ends = list(itertools.accumulate(share * course.seconds for share in course.cycles))
        return [_Stretch(stop, start, stop) for start, stop in itertools.pairwise([0.0, *ends])]
    total = sum(course.cycles)
    ends = [
        max(number + 1, round(course.steps * share / total))
        for number, share in enumerate(itertools.accumulate(course.cycles))
    ]
    every = math.ceil(course.steps / course.validations) if course.validations else course.steps
    found = []
    for start, stop in itertools.pairwise([0, *ends]):
        inner = [step for step in range(every, stop, every) if step > start]
        found += [_Stretch(step, start, stop) for step in (*inner, stop)]
    return found


class _Group:
    """Members that fill the places of an execution once."""

    def __init__(
        self,
        task: Task,
        members: Sequence[Member],
        course: Course,
        execution: Execution,
        session: Session,
    ) -> None:
        self._task, self._members, self._course = task, members, course
        self._execution, self._session = execution, session
        self._inputs = [member.inputs for member in members]
        self._targets = [member.targets for member in members]
        self._mapped: MappedTask = mapped_task(task, execution)
        self._resident = resident(self._inputs, self._targets, execution)
        self._step, self._state = 0, None
        self._progress = [_Progress(member, task, course) for member in members]
        self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()

    def train(self) -> list[Trained]:
        """Goes through all stretches, from a checkpoint on if there is one."""
        checkpoint = self._session.checkpoint if self._course.seconds is None else None
        if checkpoint:
            section = checkpoint.next_section(self._task.name)
            if kept := checkpoint.arrays(section):
                self._restore(kept)
            checkpoint.sections[section] = self._arrays
        self._tell(self._step)
        self._run()
        trained = [
            own.result(state) for own, state in zip(self._progress, self._states, strict=True)
        ]
        if checkpoint:
            checkpoint.sections[section] = self._arrays()
        return trained

    def check_memory(self) -> None:
        """Raises `mapping.DoesNotFitError` where a dispatch is too large for a device."""
        self._begin()
        self._compile(next(self._dispatches(_stretches(self._course)[0])))

    @property
    def _finished(self) -> bool:
        ends = self._course.seconds is None and self._step >= _stretches(self._course)[-1].stop
        return ends or all(own.stopped for own in self._progress)

    def _run(self) -> None:
        self._begin()
        began: float | None = None
        if self._step == 0:
            self._validate(False)
        for stretch in _stretches(self._course):
            # Where they are equal, a stop may have come just before the validation.
            if self._course.seconds is None and stretch.stop < self._step:
                continue
            for dispatch, count in one_ahead(self._dispatches(stretch)):
                compiled = self._compile((dispatch, count))
                began = began or time.perf_counter()
                dispatch = self._rated(dispatch, count, stretch, began)
                # Returns at once: the next batch is gathered on the host while the devices work.
                self._state, losses = compiled(
                    self._state, self._constants, self._resident, dispatch
                )
                self._pending.append((count, losses))
                self._collect(_AHEAD)
                self._step += count
                self._tell(count)
                self._session.give_way()
                if self._course.seconds and time.perf_counter() - began >= stretch.stop:
                    break
            self._validate(stretch.ends_cycle)
            if self._finished:
                self._tell(max(0, self._course.steps - self._step))
                break

    def _begin(self) -> None:
        """Places constants and the first state on the devices."""
        self._constants = self._execution.place(
            self._execution.stack([_constants(member) for member in self._members])
        )
        if self._state is None:
            begun = [member.begun for member in self._members]
            if all(begun):
                self._state = self._placed([one.state for one in begun])
            else:
                self._state = self._initial()
        self._rows = [own.rows(self._step) for own in self._progress]

    def _initial(self) -> State:
        keys = [np.asarray(jax.random.key_data(own.initial_key)) for own in self._progress]
        rows = [next(own.rows(0)) for own in self._progress]
        batch = self._execution.place_batches(self._batch(rows), axis=2)
        return self._execution.place(
            self._mapped.init(self._execution.stack(keys), self._constants, self._resident, batch)
        )

    def _placed(self, states: Sequence[State]) -> State:
        return self._execution.place(self._execution.stack(states))

    def _dispatches(self, stretch: _Stretch) -> Iterator[tuple[Dispatch, int]]:
        """Yields (dispatch without rates, how many of its steps are live)."""
        size, step = self._execution.steps_per_dispatch, self._step
        while self._course.seconds is not None or step < stretch.stop:
            count = size
            if self._course.seconds is None:
                count = min(size, int(stretch.stop) - step)
            taken = [list(itertools.islice(rows, count)) for rows in self._rows]
            # Steps beyond the last one are computed and thrown away: one shape is compiled.
            filled = [np.stack([*own, *[own[-1]] * (size - count)]) for own in taken]
            batches = self._execution.place_batches(self._batch(filled), axis=3)
            numbers = [
                own.before + step + np.arange(size, dtype=np.int32) for own in self._progress
            ]
            live = np.arange(size) < count
            yield (
                Dispatch(
                    batches,
                    np.zeros((*self._execution.places, size), np.float32),
                    self._execution.stack([n.astype(np.int32) for n in numbers]),
                    np.broadcast_to(live, (*self._execution.places, size)),
                ),
                count,
            )
            step += count

    def _batch(self, rows: Sequence[np.ndarray]) -> Any:
        if self._resident is not None:
            return self._execution.stack([own.astype(np.int32) for own in rows])
        return gather(self._inputs, self._targets, rows, self._execution)

    def _compile(self, made: tuple[Dispatch, int]) -> Any:
        arguments = (self._state, self._constants, self._resident, made[0])
        return self._mapped.compiled_steps(*arguments, in_flight=_AHEAD + 1)

    def _rated(self, dispatch: Dispatch, count: int, stretch: _Stretch, began: float) -> Dispatch:
        """Fills in learning rates: by the step's number, or by the clock."""
        size, live = self._execution.steps_per_dispatch, range(count)
        if self._course.seconds is None:
            shares = [stretch.rate(self._step + index) for index in live]
        else:
            shares = [stretch.rate(time.perf_counter() - began)] * count
        rates = np.zeros(size, np.float32)
        rates[:count] = shares
        peaks = [np.float32(member.learning_rate) * rates for member in self._members]
        return dispatch._replace(rates=self._execution.stack(peaks))

    def _collect(self, left: int) -> None:
        """Takes losses from the devices, until so many dispatches are on their way."""
        while len(self._pending) > left:
            count, losses = self._pending.popleft()
            of_members = self._execution.unstack(losses, len(self._members))
            for own, values in zip(self._progress, of_members, strict=True):
                own.add_losses(values[:count])

    def _validate(self, ends_cycle: bool) -> None:
        self._collect(0)
        judged = any(len(member.held_out) for member in self._members)
        if judged:
            for own, state in zip(self._progress, self._states, strict=True):
                own.validate(state, ends_cycle)

    @property
    def _states(self) -> list[State]:
        """Of every member, NumPy arrays."""
        return self._execution.unstack(self._state, len(self._members))

    def _tell(self, steps: int) -> None:
        self._session.progress(len(self._members) * min(1.0, steps / self._course.steps))

    def _arrays(self) -> Arrays:
        """Everything that continuing needs, by name."""
        self._collect(0)
        arrays: dict[str, np.ndarray] = {"step": np.asarray(self._step)}
        if self._state is None:
            return arrays
        for index, (own, state) in enumerate(zip(self._progress, self._states, strict=True)):
            arrays |= {f"{index}/{name}": array for name, array in own.arrays(state).items()}
        return arrays

    def _restore(self, arrays: Arrays) -> None:
        self._step = int(arrays["step"])
        states = []
        for index, own in enumerate(self._progress):
            prefix = f"{index}/"
            mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if not mine:
                self._step = 0
                return
            states.append(own.restore(mine))
        self._state = self._placed(states)


class _Progress:
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
        """Looks at the held-out rows, unless patience has ended or it was done at this step."""
        member, losses = self._member, self._all_losses
        if self.stopped or (self._history and self._history[-1].step == len(losses)):
            return
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
        arrays = {
            "losses": self._all_losses,
            "history": np.array(history, np.float64).reshape(len(history), 3 + len(names)),
            "stopped": np.asarray(self.stopped),
            **{f"best/{i:05d}": x for i, x in enumerate(best)},
            **{f"state/{i:05d}": x for i, x in enumerate(jax.tree.leaves(state))},
        }
        # Orbax takes no empty arrays.
        return {name: array for name, array in arrays.items() if array.size}

    def restore(self, arrays: Arrays) -> State:
        """Goes back to where `arrays` was called; returns the state."""
        self._losses = [arrays["losses"]] if "losses" in arrays else []
        self.stopped = bool(arrays["stopped"])
        shapes = jax.eval_shape(self._initial_state)
        leaves = {
            kind: [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]
            for kind in ("best", "state")
        }
        if leaves["best"]:
            self._best = jax.tree.structure(shapes.params).unflatten(leaves["best"])
        history = arrays["history"].tolist() if "history" in arrays else []
        names = self._measures() if history else []
        self._history = [
            Validation(int(step), dict(zip(names, means, strict=True)), bool(ends), loss)
            for step, ends, loss, *means in history
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


def _constants(member: Member) -> Constants:
    width, positions = member.inputs.shape[-1], positions_of(member.inputs)
    return Constants(
        member.constants,
        np.asarray(jax.random.key_data(member.key)),
        np.pad(positions, (0, width - len(positions))).astype(np.int32),
        np.arange(width) < len(positions),
    )


def _fitting(
    task: Task, members: Sequence[Member], course: Course, execution: Execution
) -> Execution:
    """Returns as large an execution as the devices' memory allows."""
    while execution.step_bytes is not None:
        try:
            group = members[: execution.group_size]
            _Group(task, group, course, execution, current_session()).check_memory()
            break
        except DoesNotFitError as error:
            if (smaller := execution.reduced()) is None:
                raise UserError(
                    f"{error}; give smaller batches, narrower networks or smaller images"
                ) from None
            execution = smaller
    return execution
