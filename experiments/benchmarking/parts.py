"""What `experiments.benchmark` measures: extraction, training steps, and what cells cost.

Each function takes a `Setup` and a `timing.Clock` and returns rows of plain numbers for the table
and the JSON file. Images, features and parameters are random; functions, shapes and the spread over
devices are those of a characterisation.
"""

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking import inputs as inputs
from experiments.benchmarking.inputs import Setup
from experiments.benchmarking.timing import Clock, counted_by_xla, step_flops
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.cost import local_cost
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.backbone.features.layer_features import LayerFeatures, extractor
from privynet_jax.backbone.forward import made_up_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation import dedicated
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.results import cells
from privynet_jax.training import tasks as training
from privynet_jax.training.group import Group, Member
from privynet_jax.training.inputs import LayerInputs
from privynet_jax.training.mapping import MappedTask
from privynet_jax.training.tasks import Task

# Channels that a cache keeps of a layer: about the union of a few cells' 32.
KEPT = 64
Row = dict[str, Any]


def extraction(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times VGG16's pass to each layer alone, to all in one, and to all as the cache writes it."""
    split, everywhere = data_parallel()
    batch = images_per_batch(setup.image_size) * len(split.device_set)
    stored = inputs.random_images(batch, setup.image_size)
    images = jax.device_put(as_float(stored), split)
    params = jax.device_put(made_up_params(VGG16, max(setup.layers)), everywhere)
    union = {m: _kept(m) for m in setup.layers}

    def work(layers: Sequence[int]) -> Any:
        extract = jax.jit(extractor(VGG16, {m: union[m] for m in layers}))
        return lambda n: jax.block_until_ready([extract(params, images) for _ in range(n)])

    extract_all = extractor(VGG16, union)

    @jax.jit
    def cached(params: Any, images: jax.Array) -> list[jax.Array]:
        return [jnp.float16(0.5 * x) for x in extract_all(params, images).values()]

    def cache(count: int) -> None:
        for _ in range(count):
            jax.device_get(cached(params, jax.device_put(as_float(stored), split)))

    works = {str(m): (batch * _vgg_flops(m, setup), work([m])) for m in setup.layers}
    through = batch * _vgg_flops(max(setup.layers), setup)
    if len(setup.layers) > 1:
        works["all"] = (through, work(setup.layers))
    works["all, as cached"] = (through, cache)
    measured = clock.measure(works)
    alone = measured[str(max(setup.layers))]["seconds"]
    for name, numbers in measured.items():
        yield {
            "layers": name,
            "images_per_second": batch / numbers["seconds"],
            "time_of_deepest": numbers["seconds"] / alone,
            **numbers,
        }


def training_steps(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times training steps of all cells of a group, with and without gathering their batches."""
    parts = inputs.random_parts(setup)
    for m in setup.layers:
        chosen = cells.grid_cells((m,), (setup.depth,), execution.group_size, seed=0)
        layer = inputs.random_layer(m, chosen, setup)
        for name, task in inputs.tasks(setup, execution).items():
            yield _training_row(name, task, chosen, layer, parts, setup, clock, execution)


def further_cells(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times the grid itself: what a layer's first group costs, and what each further one does."""
    parts = inputs.random_parts(setup)
    tasks = inputs.tasks(setup, execution)
    settings = dedicated.Settings(
        *inputs.networks(setup).values(),
        *(task.schedule for task in tasks.values()),
        attackers=(training.RESIDUAL,),  # whose steps are timed
    )
    for m in setup.layers:
        chosen = cells.grid_cells((m,), (setup.depth,), setup.groups * execution.group_size, seed=0)
        layer = inputs.random_layer(m, chosen, setup)
        done = [time.perf_counter()]
        for _ in dedicated.characterise(
            chosen,
            chosen,
            chosen,
            {m: layer},
            parts,
            settings,
            execution,
            seed=0,
            examples=range(10),
        ):
            done.append(time.perf_counter())
        # The cells of a group are finished at the same time: the first one's tells.
        ends = [done[0], *done[1 :: execution.group_size]]
        groups = [end - start for start, end in itertools.pairwise(ends)]
        yield {
            "layer": m,
            "steps": settings.cloud_schedule.steps,
            "cells_per_group": execution.group_size,
            "first_group_seconds": groups[0],
            "further_cell_seconds": float(np.median(groups[1:])) / execution.group_size,
        }


def _training_row(
    name: str,
    task: Task,
    chosen: Sequence[cells.Cell],
    layer: LayerFeatures,
    parts: Parts,
    setup: Setup,
    clock: Clock,
    execution: Execution,
) -> Row:
    attack = inputs.no_attack(layer.num_layers, setup)
    members = [
        Member(layer.positions(c.topology.channels), cells.training_key(c, 0), attack)
        for c in chosen
    ]
    mapped, pipeline = (
        MappedTask(task, execution),
        LayerInputs(layer, parts, setup.depth, execution),
    )
    group = Group(members, pipeline)
    x = np.zeros((task.schedule.batch_size, *pipeline.representation_shape), np.float16)
    y = getattr(getattr(parts, task.part), task.targets)[: len(x)]
    flops = _step_flops(name, x.shape, setup)
    of_group = flops * execution.group_size
    measured = clock.measure(
        {
            "step": (
                of_group * execution.steps_per_dispatch,
                _dispatches(mapped, members, pipeline),
            ),
            "pipeline": (
                of_group * task.schedule.steps,
                lambda n: jax.block_until_ready([group.train(mapped) for _ in range(n)]),
            ),
        }
    )
    state = jax.eval_shape(functools.partial(training.init_state, task), jax.random.key(0), x)
    step = measured["step"]
    return {
        "layer": layer.num_layers,
        "network": name,
        "batch_size": len(x),
        "cells": execution.group_size,
        "flops_per_cell_step": flops,
        "xla_flops_per_cell_step": counted_by_xla(
            functools.partial(training.train_step, task), state, attack, x, y
        ),
        "step_seconds": step["seconds"] / execution.steps_per_dispatch,
        **{key: step[key] for key in ("gflops", "gflops_best", "share")},
        **{f"pipeline_{key}": measured["pipeline"][key] for key in ("gflops", "share")},
    }


def _dispatches(mapped: MappedTask, members: Sequence[Member], pipeline: LayerInputs) -> Any:
    """Work of steps on one batch that is already gathered; its transfer from the host counts."""
    task, execution = mapped.task, mapped.execution
    positions = [member.positions for member in members]
    constants = pipeline.constants(positions, [member.extras for member in members])
    resident = pipeline.resident(task.part, task.targets)
    rows = np.arange(execution.steps_per_dispatch * task.schedule.batch_size)
    rows = rows.reshape(execution.steps_per_dispatch, -1) % len(getattr(pipeline.parts, task.part))

    def batch(mine: np.ndarray) -> Any:
        return pipeline.batch(task.part, task.targets, positions, [mine] * len(members))

    keys = execution.stack([np.asarray(jax.random.key_data(member.key)) for member in members])
    state = mapped.init(keys, constants, resident, batch(rows[0]))
    batches, live = batch(rows), execution.stack([np.ones(len(rows), bool)] * len(members))

    def work(count: int) -> None:
        nonlocal state
        for _ in range(count):
            # A step's state is donated to the next one, so the last must not be lost.
            state, loss = mapped.steps(state, constants, resident, batches, live)
        loss.block_until_ready()

    return work


def _step_flops(name: str, shape: tuple[int, ...], setup: Setup) -> int:
    flops = step_flops(inputs.networks(setup)[name], shape)
    if name == "attacker":  # which corrects the linear one: 3 x 3 taps per estimated value
        flops += 2 * 9 * shape[-1] * shape[0] * setup.image_size**2 * 3
    return flops


def _vgg_flops(num_layers: int, setup: Setup) -> int:
    everything = tuple(range(VGG16.cut(num_layers).channels))
    return 2 * local_cost(Topology(num_layers, everything), setup.image_size).macs


def _kept(num_layers: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(VGG16.cut(num_layers).channels)[:KEPT])
