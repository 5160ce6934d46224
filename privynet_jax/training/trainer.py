"""Trains networks side by side: the only loop over gradient steps.

A member is one network: a key, the rows that it learns from, its learning rate and constants. All
members of a call learn one task for one length. They go over the devices in groups; a member's
numbers do not depend on which others run beside it. `session` says where trainings are kept, who is
told, and when to give way.

    members = [Member(key, representations, labels, rows, learning_rate=2e-3)]
    [trained] = train(cloud_task(network), members, Course(steps=300, batch_size=32))
    trained.params, trained.converged
"""

import collections
import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.devices import Execution, execution_for
from privynet_jax.training.batches import gather, one_ahead, resident
from privynet_jax.training.checkpoints import Arrays
from privynet_jax.training.convergence import Course, Stretch
from privynet_jax.training.mapping import AHEAD, DoesNotFitError, mapped_task
from privynet_jax.training.members import Member, Progress, Trained, below
from privynet_jax.training.session import current_session
from privynet_jax.training.steps import Dispatch, State
from privynet_jax.training.tasks import Task


def train(
    task: Task, members: Sequence[Member], course: Course, *, one_per_device: bool = False
) -> list[Trained]:
    """Trains members, in groups that fill the devices.

    Args:
        task: what they learn.
        members: at least one.
        course: how long; seconds are of each.
        one_per_device: see `devices.execution_for`.

    Raises:
        UserError: a single member does not fit into a device's memory.
        signals.Terminated: a stop was requested; the session's checkpoint has everything so far.
    """
    spread = current_session().spread
    execution = execution_for(len(members), course.batch_size, spread, one_per_device)
    execution = _fitting(task, members, course, execution)
    trained = []
    for start in range(0, len(members), execution.group_size):
        group = members[start : start + execution.group_size]
        trained += _Group(task, group, course, execution).train()
    return trained


def _fitting(
    task: Task, members: Sequence[Member], course: Course, execution: Execution
) -> Execution:
    """Returns as large an execution as the devices' memory allows."""
    while execution.step_bytes is not None:
        try:
            _Group(task, members[: execution.group_size], course, execution).check_memory()
            break
        except DoesNotFitError as error:
            if (smaller := execution.reduced()) is None:
                raise UserError(
                    f"{error}; give smaller batches, narrower networks or smaller images"
                ) from None
            execution = smaller
    return execution


class _Group:
    """Members that fill the places of an execution once."""

    def __init__(
        self, task: Task, members: Sequence[Member], course: Course, execution: Execution
    ) -> None:
        self._task, self._members, self._execution = task, members, execution
        self._session, self._by_clock = current_session(), course.seconds is not None
        self._stretches = course.stretches(len(members))
        self._inputs = [member.inputs for member in members]
        self._targets = [member.targets for member in members]
        self._progress = [Progress(member, task, course) for member in members]
        self._mapped = mapped_task(task, execution)
        self._resident = resident(self._inputs, self._targets, execution)
        self._constants = self._placed([own.constants for own in self._progress])
        self._step, self._state, self._told, self._began = 0, None, 0.0, None
        self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()

    def train(self) -> list[Trained]:
        """Goes through all stretches, from a checkpoint on if there is one."""
        checkpoint = None if self._by_clock else self._session.checkpoint
        if checkpoint:
            section = checkpoint.next_section(self._task.name)
            if kept := checkpoint.arrays(section):
                self._restore(kept)
        self._tell()
        self._begin()
        if checkpoint:
            checkpoint.sections[section] = self._arrays
        self._run()
        self._tell(1.0)
        trained = [own.result(state) for own, state in self._with_states()]
        if checkpoint:
            checkpoint.sections[section] = self._arrays()
        return trained

    def check_memory(self) -> None:
        """Raises `mapping.DoesNotFitError` where a dispatch is too large for a device."""
        self._begin()
        dispatch, _ = next(self._dispatches(self._stretches[0]))
        self._compiled(dispatch)

    def _begin(self) -> None:
        """Makes the first state, unless there is one, and opens the members' batches."""
        if self._state is None:
            begun = [member.begun for member in self._members]
            states = [one.state if one else None for one in begun]
            if None in begun:
                initial = self._mapped.init(*self._first_arguments())
                initial = self._execution.unstack(initial, len(begun))
                states = [own or new for own, new in zip(states, initial, strict=True)]
            self._state = self._placed(states)
        self._rows = [own.rows(self._step) for own in self._progress]

    def _first_arguments(self) -> tuple[Any, ...]:
        keys = [np.asarray(jax.random.key_data(own.initial_key)) for own in self._progress]
        batch = self._batch([next(own.rows(0)) for own in self._progress], axis=2)
        return self._execution.stack(keys), self._constants, self._resident, batch

    def _run(self) -> None:
        if self._step == 0:
            self._validate(False)
        for stretch in self._stretches:
            if all(own.stopped for own in self._progress):
                break
            # One that was interrupted at its end may still have to be judged there.
            if stretch.steps_left(self._step) >= 0:
                self._take(stretch)
                self._validate(stretch.ends_cycle)

    def _take(self, stretch: Stretch) -> None:
        """Takes the steps of a stretch, as far as they are not taken yet."""
        for dispatch, count in one_ahead(self._dispatches(stretch)):
            compiled = self._compiled(dispatch)
            self._began = self._began or time.perf_counter()
            dispatch = self._rated(dispatch, stretch.rates(self._now, count))
            # Returns at once: the next batch is gathered on the host while the devices work.
            self._state, losses = compiled(self._state, self._constants, self._resident, dispatch)
            self._pending.append((count, losses))
            self._collect(AHEAD)
            self._step += count
            self._tell()
            self._session.give_way()
            if self._now >= stretch.stop:
                break

    @property
    def _now(self) -> float:
        """How much of the course is over: steps, or seconds since the steps were compiled."""
        if not self._by_clock:
            return self._step
        return time.perf_counter() - self._began if self._began else 0.0

    def _dispatches(self, stretch: Stretch) -> Iterator[tuple[Dispatch, int]]:
        """Yields (dispatch without rates, how many of its steps are live)."""
        size, step, places = self._execution.steps_per_dispatch, self._step, self._execution.places
        while (count := min(size, stretch.steps_left(step))) > 0:
            taken = [list(itertools.islice(rows, count)) for rows in self._rows]
            # Steps beyond the last one are computed and thrown away: one shape is compiled.
            filled = [np.stack([*own, *[own[-1]] * (size - count)]) for own in taken]
            numbers = [np.arange(size) + own.before + step for own in self._progress]
            dispatch = Dispatch(
                self._batch(filled, axis=3),
                np.zeros((*places, size), np.float32),
                self._execution.stack(np.int32(numbers)),
                np.broadcast_to(np.arange(size) < count, (*places, size)),
            )
            yield dispatch, count
            step += count

    def _batch(self, rows: Sequence[np.ndarray], axis: int) -> Any:
        """Mini-batches where they are needed, whose examples lie along an axis."""
        if self._resident is not None:
            found = self._execution.stack([own.astype(np.int32) for own in rows])
        else:
            found = gather(self._inputs, self._targets, rows, self._execution)
        return self._execution.place_batches(found, axis)

    def _compiled(self, dispatch: Dispatch) -> Any:
        return self._mapped.compiled_steps(self._state, self._constants, self._resident, dispatch)

    def _rated(self, dispatch: Dispatch, rates: Sequence[float]) -> Dispatch:
        filled = np.zeros(self._execution.steps_per_dispatch, np.float32)
        filled[: len(rates)] = rates
        peaks = [np.float32(member.learning_rate) * filled for member in self._members]
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
        if any(len(member.held_out) for member in self._members):
            for own, state in self._with_states():
                own.validate(state, ends_cycle)

    def _placed(self, per_member: Sequence[Any]) -> Any:
        return self._execution.place(self._execution.stack(per_member))

    def _with_states(self) -> list[tuple[Progress, State]]:
        states = self._execution.unstack(self._state, len(self._members))
        return list(zip(self._progress, states, strict=True))

    def _tell(self, share: float | None = None) -> None:
        """Tells the session how much more of the members' trainings is done, as far as known."""
        if share is None:
            whole = self._stretches[-1].stop
            if not self._by_clock:
                whole = max(1, *(own.expected_steps(self._step) for own in self._progress))
            # A validation that brings something better puts the end off; a bar does not go back.
            share = max(self._told, min(1.0, self._now / whole))
        self._session.progress(len(self._members) * (share - self._told))
        self._told = share

    def _arrays(self) -> Arrays:
        """Everything that continuing needs, by name."""
        self._collect(0)
        arrays = {"step": np.asarray(self._step), "identity": self._identity()}
        for index, (own, state) in enumerate(self._with_states()):
            arrays |= {f"{index}/{name}": array for name, array in own.arrays(state).items()}
        return arrays

    def _restore(self, arrays: Arrays) -> None:
        """Goes back to where `_arrays` was called, if it was called of the same training."""
        if not np.array_equal(arrays["identity"], self._identity()):
            return
        self._step = int(arrays["step"])
        like = jax.eval_shape(self._mapped.init, *self._first_arguments())
        states = [
            own.restore(below(f"{index}/", arrays), like)
            for index, own in enumerate(self._progress)
        ]
        self._state = self._placed(states)

    def _identity(self) -> np.ndarray:
        """uint8 [32]. Where other devices group members otherwise, their places mean others."""
        digest = hashlib.sha256(b" ".join(own.identity() for own in self._progress))
        return np.frombuffer(digest.digest(), np.uint8)
