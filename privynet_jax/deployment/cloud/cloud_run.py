"""One training of a cloud NN, step by step, with everything that a checkpoint of it must hold.

`cloud_training` decides what is trained on and drives it. Nothing but the release's rows, the
network, the schedule and the seed decides a number here, so a run that is continued from a
checkpoint ends like one that was not interrupted, wherever XLA repeats itself to the bit.

    run = CloudRun(data, network, schedule, patience=6, seed=0, checkpoint=checkpoint)
    while not run.finished:
        run.advance()
    params, history = run.best_params(), run.history
"""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.deployment.cloud.classifier import Validation
from privynet_jax.deployment.cloud.cloud_network import BatchedNetwork
from privynet_jax.errors import UserError
from privynet_jax.images import metrics
from privynet_jax.platform.devices import data_parallel
from privynet_jax.platform.row_views import ChosenRows
from privynet_jax.training import tasks
from privynet_jax.training.checkpoints import GroupCheckpoint, TrainingProgress
from privynet_jax.training.networks import CloudNN

# Of a whole run, equally spaced.
VALIDATIONS = 20
# Steps that the host may be ahead of the devices.
_AHEAD = 2


class Data(NamedTuple):
    """What a run sees of a release.

    Attributes:
        representations: has a shape [N, h, w, d], and rows by a slice or an array of ints.
        labels: int32 [N].
        training: int, rows that are learnt from.
        validation: int, rows that are held out.
    """

    representations: Any
    labels: np.ndarray
    training: np.ndarray
    validation: np.ndarray


class CloudRun:
    """A training at some step; `finished` says whether it is over."""

    def __init__(
        self,
        data: Data,
        network: CloudNN,
        schedule: tasks.Schedule,
        patience: int,
        seed: int,
        checkpoint: GroupCheckpoint | None = None,
    ) -> None:
        """Begins, or goes on where a checkpoint ends.

        Args:
            data: rows to learn from and to validate on.
            network: fits the representations.
            schedule: of the steps.
            patience: validations without anything better that end the run.
            seed: of parameters and mini-batches.
            checkpoint: of this training alone; None keeps nothing.
        """
        self._data, self._schedule, self._patience = data, schedule, patience
        self._checkpoint, shape = checkpoint, tuple(data.representations.shape[1:])
        self._task = tasks.cloud_task(network, schedule)
        self._evaluated = BatchedNetwork(network, shape)
        self._every = math.ceil(schedule.steps / VALIDATIONS)
        self._split, self._everywhere = data_parallel(dividing=schedule.batch_size)
        key = jax.random.fold_in(jax.random.key(seed), self._task.stream)
        initial, shuffling = jax.random.split(key)
        self._order = tasks.batch_order(shuffling, len(data.training), schedule)
        self.step, self.last_loss = 0, math.nan
        self.history: list[Validation] = []
        self._losses = np.full(schedule.steps, np.nan, np.float32)
        self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._best: list[np.ndarray] = []
        state = tasks.init_state(self._task, initial, np.zeros((1, *shape), np.float32))
        self._structure = jax.tree.structure(state.params)
        self._state = jax.device_put(self._restored(state), self._everywhere)
        self._take = jax.jit(self._step_on, donate_argnums=0)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or patience is at its end."""
        return self.step == self._schedule.steps or stale(self.history) >= self._patience

    def advance(self) -> None:
        """Takes one step, and validates where that is due.

        Raises:
            UserError: training diverged.
        """
        rows = self._data.training[self._order[self.step]]
        batch = (self._data.representations[rows], self._data.labels[rows])
        # Returns at once: the next batch is read while the devices work.
        self._state, loss = self._take(self._state, *jax.device_put(batch, self._split))
        self._pending.append((self.step, loss))
        self._collect(_AHEAD)
        self.step += 1
        if self.step % self._every == 0 or self.step == self._schedule.steps:
            self._validate()

    def save(self, *, wait: bool = False) -> None:
        """Writes a checkpoint in the background, or waits until it is on the disk."""
        if self._checkpoint:
            self._collect(0)
            kept = {"losses": [self._losses.copy()]}
            if self.history:
                kept |= {"history": [np.array(self.history, np.float64)], "best": self._best}
            state = [np.array(leaf) for leaf in jax.tree.leaves(self._state)]
            progress = TrainingProgress(kept, self._task.name, self.step, state)
            self._checkpoint.save(progress, wait=wait)

    def best_params(self) -> Any:
        """Returns the parameters of the best validation, NumPy arrays; see `best_of`."""
        return self._structure.unflatten(self._best)

    def _step_on(
        self, state: tasks.State, x: jax.Array, labels: jax.Array
    ) -> tuple[tasks.State, jax.Array]:
        return tasks.train_step(self._task, state, None, x, labels)

    def _restored(self, state: tasks.State) -> tasks.State:
        kept = self._checkpoint.restore() if self._checkpoint else None
        if kept is None:
            return state
        self.step, self._losses = kept.step, kept.finished["losses"][0].copy()
        self._best = kept.finished.get("best", [])
        for step, *values in np.concatenate(kept.finished.get("history", [[]])).tolist():
            self.history.append(Validation(int(step), *values))
        self.last_loss = float(self._losses[self.step - 1]) if self.step else math.nan
        return jax.tree.structure(state).unflatten(kept.state)

    def _collect(self, left: int) -> None:
        """Takes losses from the devices, until so many steps are on their way."""
        while len(self._pending) > left:
            step, loss = self._pending.popleft()
            self._losses[step] = self.last_loss = float(loss)

    def _validate(self) -> None:
        self._collect(0)
        before = self.history[-1].step if self.history else 0
        loss = float(self._losses[before : self.step].mean(dtype=np.float64))
        answers = self._data.labels[self._data.validation]
        held_out = ChosenRows(self._data.representations, self._data.validation)
        logits = jnp.asarray(self._evaluated.logits(self._state.params, held_out))
        right = np.asarray(metrics.correct(logits, answers), np.float64)
        validation_loss = float(self._task.loss(logits, jnp.asarray(answers)))
        now = Validation(self.step, loss, float(right.mean()), validation_loss)
        if not all(map(math.isfinite, now)):
            raise UserError(
                f"training diverged before step {self.step}: its loss is no number; give a lower "
                f"--learning_rate than {self._schedule.learning_rate:g}, and look whether the "
                "release holds negative or infinite values"
            )
        self.history.append(now)
        if best_of(self.history) is now:
            self._best = [np.array(leaf) for leaf in jax.tree.leaves(self._state.params)]


def best_of(history: Sequence[Validation]) -> Validation:
    """Returns the validation of highest accuracy; of equals the first with the lowest loss."""
    return max(history, key=lambda moment: (moment.validation_accuracy, -moment.validation_loss))


def stale(history: Sequence[Validation]) -> int:
    """Returns how many validations there were since accuracy or loss was better than ever."""
    best_accuracy, best_loss, count = -math.inf, math.inf, 0
    for moment in history:
        better = moment.validation_accuracy > best_accuracy or moment.validation_loss < best_loss
        count = 0 if better else count + 1
        best_accuracy = max(best_accuracy, moment.validation_accuracy)
        best_loss = min(best_loss, moment.validation_loss)
    return count
