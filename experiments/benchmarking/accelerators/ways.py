"""Training steps of many cells on one device, in several ways, and how fast each is.

"grouped" is what the trainer does: `vmap` makes a grouped convolution of those of all cells.
Otherwise cells follow one another in one program ("loop"), convolutions are a batched matrix
product per tap ("products"), or one convolution with a block-diagonal kernel ("blocks").

    steps = steps_of("grouped", task, cells=8, count=10)
    states, losses = jax.jit(steps)(states, constants, x, y)
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking.accelerators.rewriting import (
    CONVOLUTION,
    by_blocks,
    by_products,
    rewritten,
)
from experiments.benchmarking.accelerators.runner import Row, Settings
from experiments.benchmarking.inputs import CLOUD_NN, Learnt, Setup, learnt, members, random_layer
from experiments.benchmarking.parts import step_flops
from experiments.benchmarking.timing import Clock
from privynet_jax import grid_cells
from privynet_jax.platform.devices import execution_for, on_cpu
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.steps import init_state, step
from privynet_jax.training.tasks import Task

GROUPED, LOOP, PRODUCTS, BLOCKS = WAYS = ("grouped", "loop", "products", "blocks")
# Programs of a loop grow with it, and zeros that are multiplied with the square.
_MOST = {GROUPED: 64, PRODUCTS: 64, LOOP: 16, BLOCKS: 8}
# What the trainer would choose among first: a run that is cut short has these.
_NUMBERS = (8, 1, 32, 4, 16, 2, 64)
_RATE = np.float32(1e-3)


def steps_of(way: str, task: Task, cells: int, count: int) -> Callable[..., Any]:
    """Returns (states, constants, x, y) -> (states, losses [count, cells]).

    All have a leading axis of cells: x [cells, B, h, w, D], y [cells, B, ...]. More than one step
    is a `lax.scan`, as in the trainer.
    """
    rules = {PRODUCTS: by_products, BLOCKS: by_blocks}
    if way in rules:
        predict = rewritten(task.predict, {CONVOLUTION: rules[way]})
        task = dataclasses.replace(task, predict=predict)
    one = functools.partial(step, task, rate=_RATE)

    def all_together(states: Any, constants: Any, x: jax.Array, y: jax.Array) -> Any:
        if way == LOOP:
            each = [jax.tree.map(lambda a, i=i: a[i], (constants, x, y)) for i in range(cells)]
            found = [one(own, *rest) for own, rest in zip(states, each, strict=True)]
            return tuple(state for state, _ in found), jnp.stack([loss for _, loss in found])
        return jax.vmap(one)(states, constants, x, y)

    def steps(states: Any, constants: Any, x: jax.Array, y: jax.Array) -> Any:
        if way == LOOP:  # apart, because stacking them would copy all in every step
            states = tuple(jax.tree.map(lambda a, i=i: a[i], states) for i in range(cells))
        if count == 1:
            states, losses = all_together(states, constants, x, y)
            losses = losses[None]
        else:
            body = lambda states, _: all_together(states, constants, x, y)  # noqa: E731
            states, losses = jax.lax.scan(body, states, length=count)
        if way == LOOP:
            states = jax.tree.map(lambda *a: jnp.stack(a), *states)
        return states, losses

    return steps


def arguments_of(num_layers: int, name: str, cells: int, setup: Setup) -> tuple[Task, tuple]:
    """Returns a network's task, and what `steps_of` takes, of so many cells; `stacked` inputs."""
    what, networks = _networks(num_layers, name, cells, setup)
    x = np.stack([np.float16(own.inputs[: what.batch_size]) for own in networks])
    y = np.stack([what.targets[: what.batch_size]] * cells)
    keys = jnp.stack([own.key for own in networks])
    states = jax.jit(jax.vmap(functools.partial(init_state, what.task)))(keys, np.float32(x))
    constants = jax.tree.map(lambda *a: np.stack(a), *[own.constants for own in networks])
    return what.task, (states, constants, x, y)


def cells(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Steps per second and share of the matrix product by way and number of cells."""
    setup = setup_of(settings)
    # On CPU, convolutions inside a scan are some 50 times slower.
    counts = (1,) if on_cpu() else (10, 1)
    numbers = (2,) if settings.quick else (2, 1) if settings.small else _NUMBERS
    networks = [(layer, name) for name in (STRONG, CLOUD_NN) for layer in (7, 2)]
    clock = functools.cache(lambda: clock_of(settings))
    for count in counts:
        for layer, name in networks[:1] if settings.quick else networks:
            for number in numbers:
                for way in WAYS:
                    is_usual = count == counts[0] or way == GROUPED
                    if number > _MOST[way] or not is_usual or (number == 1 and way == BLOCKS):
                        continue
                    row = f"{name}, {layer} layers, {number} cells, {way}, {count} steps at once"
                    choice = (layer, name, number, way, count)
                    yield row, lambda choice=choice: _measured(clock(), setup, *choice)


def setup_of(settings: Settings) -> Setup:
    """Returns the quickstart's sizes; smaller ones on CPU, where a scan of convolutions crawls."""
    if settings.small:
        return Setup(image_size=16, depth=8, width=16, images=64, steps=4)
    return Setup(images=64)


def clock_of(settings: Settings) -> Clock:
    """Returns a clock whose matrix product fills one device."""
    execution = dataclasses.replace(execution_for(1, 1), cells_per_device=1, shares_examples=False)
    size = 512 if settings.quick else 1024 if settings.small else 8192
    return Clock(execution, size, 2 if settings.quick else 3, 0.02 if settings.quick else 0.2)


def _networks(num_layers: int, name: str, cells: int, setup: Setup) -> tuple[Learnt, list]:
    chosen = grid_cells((num_layers,), (setup.depth,), cells, seed=0)
    what = learnt(setup, num_layers)[name]
    return what, members(chosen, random_layer(num_layers, chosen, setup), what)


@functools.cache  # counting them traces a step
def _flops(num_layers: int, name: str, setup: Setup) -> float:
    what, [member, *_] = _networks(num_layers, name, 1, setup)
    return step_flops(what, member)


def _measured(
    clock: Clock, setup: Setup, layer: int, name: str, number: int, way: str, count: int
) -> Row:
    task, arguments = arguments_of(layer, name, number, setup)
    flops = _flops(layer, name, setup) * number * count
    begun = time.perf_counter()
    states, *rest = jax.device_put(arguments)
    program = jax.jit(steps_of(way, task, number, count), donate_argnums=0)
    program = program.lower(states, *rest).compile()
    compiled = time.perf_counter() - begun
    memory = program.memory_analysis()

    def run(times: int) -> None:
        nonlocal states
        for _ in range(times):
            states, losses = program(states, *rest)
        jax.block_until_ready((states, losses))

    found = clock.measure({way: (flops, run)})[way]
    return {
        "cell_steps_per_second": number * count / found["seconds"],
        "gflops": found["gflops"],
        "share": found["share"],
        "compile_seconds": compiled,
        "temporary_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
    }
