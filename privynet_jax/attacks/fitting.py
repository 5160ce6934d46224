"""One attacker's network in training, cycle by cycle, on pairs that the host hands to the devices.

A cycle is a warm-up and a cosine down to zero, so that the network can be judged after each. Its
length is a number of steps or of seconds. Examples of a mini-batch are spread over the devices.

    run = Run(task, learning_rate=2e-3, fitted_on, held_out, attack, key, batch_size=32)
    run.train(500, in_steps=True)
    run.best, run.errors[-1]
"""

import collections
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks import rated
from privynet_jax.attacks.base import Pairs
from privynet_jax.attacks.rated import RatedState
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import at_once, data_parallel, nbytes, on_cpu
from privynet_jax.training import tasks
from privynet_jax.training.inputs import one_ahead
from privynet_jax.training.tasks import Task

_WARM_UP = 0.1
_PREDICTED_AT_ONCE = 128
# Steps that the host may be ahead of the devices, and steps per dispatch of accelerators.
_AHEAD, _STEPS_PER_DISPATCH = 2, 10
# Of the pairs of one dispatch, and of what is predicted at once: large images come in fewer.
_BYTES_AT_ONCE = 2**27


class Run:
    """A network, its optimiser's memory, and how it did after each cycle.

    Attributes:
        errors: (steps so far, error) at the start and after each cycle. An error is the geometric
            mean over held-out images of their squared errors, `10 ** (-mean PSNR / 10)`; infinite
            where the network diverged.
        best: params, on the host, at the least error so far.
    """

    def __init__(
        self,
        task: Task,
        learning_rate: float,
        fitted_on: Pairs,
        held_out: Pairs,
        extras: Any,
        key: jax.Array,
        batch_size: int,
    ) -> None:
        """Draws initial values, and compiles.

        Args:
            task: what is learnt.
            learning_rate: the peak of each cycle.
            fitted_on: pairs to learn from.
            held_out: pairs to judge by.
            extras: what the task is given besides: the linear attack.
            key: of everything random.
            batch_size: examples per mini-batch.
        """
        self.task, self._peak = task, learning_rate
        self._pairs, self._held_out = fitted_on, held_out
        self._split, everywhere = data_parallel(dividing=batch_size)
        self._extras = jax.device_put(extras, everywhere)
        initial, shuffling = jax.random.split(key)
        state = _initial(task)(initial, np.float32(fitted_on.representations[:1]))
        self._state = jax.device_put(state, everywhere)
        self._chunk = 1 if on_cpu() else _steps_at_once(fitted_on, batch_size)
        self._rows = _shuffled(stream_of(shuffling), len(fitted_on.images), batch_size)
        self._step = _steps(task)
        self._compile(batch_size)
        self.best = jax.device_get(self._state.params)
        self.errors = [(0, self._error())]

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.errors[-1][0]

    @property
    def best_error(self) -> float:
        """The least held-out error so far."""
        return min(error for _, error in self.errors)

    def train(self, amount: float, *, in_steps: bool) -> float:
        """Takes one cycle, of one step at least; returns how much of the amount's unit it took.

        Args:
            amount: steps or seconds.
            in_steps: which of them.
        """
        taken, losses = 0, collections.deque[jax.Array]()
        begun = time.perf_counter()

        def share(steps: int) -> float:
            return (steps if in_steps else time.perf_counter() - begun) / amount

        for batch in one_ahead(iter(self._batch, None)):
            # A rate of zero, beyond the end, changes nothing: it only fills up a dispatch.
            rates = [self._peak * _cycle(share(taken + index)) for index in range(self._chunk)]
            self._state, loss = self._step(self._state, self._extras, *batch, np.float32(rates))
            taken += self._chunk
            losses.append(loss)
            if len(losses) > _AHEAD:
                losses.popleft().block_until_ready()
            if share(taken) >= 1:
                break
        jax.block_until_ready(self._state)
        if in_steps:
            taken = min(taken, max(1, round(amount)))
        self._judge(self.steps + taken)
        return taken if in_steps else time.perf_counter() - begun

    def _judge(self, steps: int) -> None:
        error = self._error()
        if error < self.best_error:
            self.best = jax.device_get(self._state.params)
        self.errors.append((steps, error))

    def _batch(self) -> tuple[jax.Array, jax.Array]:
        """The next mini-batches [examples, steps, ...], so that examples can be spread."""
        rows = np.stack([next(self._rows) for _ in range(self._chunk)], axis=1)
        return self._placed(rows)

    def _placed(self, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        chosen = self._pairs.chosen(rows)
        return jax.device_put((chosen.representations, chosen.images), self._split)

    def _compile(self, batch_size: int) -> None:
        """Takes steps and throws them away: compilation is no part of a budget in seconds."""
        copied = jax.tree.map(jnp.copy, self._state)
        batch = self._placed(np.zeros((batch_size, self._chunk), int))
        rates = np.zeros(self._chunk, np.float32)
        jax.block_until_ready(self._step(copied, self._extras, *batch, rates))

    def _error(self) -> float:
        params, inputs = self._state.params, self._held_out.representations
        estimates = predicted(self.task, params, self._extras, inputs)
        found = float(np.mean(psnr_db(estimates, as_float(self._held_out.images))))
        return 10 ** (-found / 10) if math.isfinite(found) else math.inf


def predicted(task: Task, params: Any, extras: Any, representations: np.ndarray) -> np.ndarray:
    """Returns a network's estimates, float32 [N, H, W, 3] in [0, 1], batch by batch.

    Args:
        task: what was learnt.
        params: of its network.
        extras: what it is given besides.
        representations: float [N, h, w, D].
    """
    function, total, found = _prediction(task), len(representations), []
    each = 4 * math.prod(representations.shape[1:])
    size = at_once(_PREDICTED_AT_ONCE, each, _BYTES_AT_ONCE)
    for start in range(0, max(1, total), size):
        # The last batch repeats its last image up to the one shape that is compiled.
        rows = np.minimum(np.arange(start, start + size), total - 1)
        batch = np.asarray(function(params, extras, np.float32(representations[rows])))
        found.append(batch[: total - start])
    return np.concatenate(found)


def stream_of(key: jax.Array) -> np.random.Generator:
    """Returns NumPy's generator, for work on the host, with a key's own bits as its seed."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def steps_of(task: Task) -> Callable[..., tuple[RatedState, jax.Array]]:
    """Returns a pure function that takes the steps of one dispatch.

    Its arguments: state, extras, representations float [B, steps, h, w, D], images uint8
    [B, steps, H, W, 3], rates float32 [steps]. It returns the state and the last loss.
    """

    def steps(
        state: RatedState, extras: Any, x: jax.Array, images: jax.Array, rates: jax.Array
    ) -> tuple[RatedState, jax.Array]:
        if len(rates) == 1:  # a scan of one step would cost a CPU most of its speed
            return rated.step(task, state, extras, x[:, 0], images[:, 0], rates[0])
        batches = (jnp.moveaxis(x, 1, 0), jnp.moveaxis(images, 1, 0), rates)
        state, losses = jax.lax.scan(
            lambda state, batch: rated.step(task, state, extras, *batch), state, batches
        )
        return state, losses[-1]

    return steps


# Compiled once per task: candidates that differ in their rate alone share it.
@functools.cache
def _steps(task: Task) -> Callable[..., tuple[RatedState, jax.Array]]:
    return jax.jit(steps_of(task), donate_argnums=0)


@functools.cache
def _prediction(task: Task) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(tasks.predict, task))


@functools.cache
def _initial(task: Task) -> Callable[..., RatedState]:
    return jax.jit(functools.partial(rated.init_state, task))


def _steps_at_once(pairs: Pairs, batch_size: int) -> int:
    each = (nbytes(pairs.representations) + nbytes(pairs.images)) // len(pairs.images)
    return at_once(_STEPS_PER_DISPATCH, batch_size * each, _BYTES_AT_ONCE)


def _shuffled(stream: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Rows of one mini-batch after another, without end: shuffled epochs."""
    rows = itertools.chain.from_iterable(stream.permutation(count) for _ in itertools.count())
    while True:
        yield np.fromiter(rows, int, size)


def _cycle(share: float) -> float:
    """The learning rate, relative to its peak, where so much of a cycle is over."""
    if share >= 1:
        return 0.0
    if share < _WARM_UP:
        # Not zero: the first step of a short cycle may be its only one.
        return max(share / _WARM_UP, 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))
