"""What `experiments.benchmark` measures: extraction, training steps, and what cells cost.

Each function takes a `Setup` and a `timing.Clock` and returns rows of plain numbers for the table
and the JSON file. Images, features and parameters are random; functions, shapes and the spread over
devices are those of a characterisation.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking import inputs
from experiments.benchmarking.inputs import Setup
from experiments.benchmarking.timing import Clock, Work, counted_by_xla
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.cost import local_cost
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.forward import made_up_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.results.cells import grid_cells
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.steps import init_state, step
from privynet_jax.training.trainer import Course, Member, train

# Networks of a tuning, and cells beside them.
CANDIDATES = 6
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


def training(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times trainings of as many cells as the devices hold, through the trainer."""
    parts = inputs.random_parts(setup)
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), execution.group_size, seed=0)
        layer = inputs.random_layer(m, chosen, setup)
        for name, what in inputs.learnt(setup, m, parts).items():
            members, course = inputs.members(chosen, layer, what), _course(setup, what)
            flops = _step_flops(what, members[0])
            of_all = flops * setup.steps * len(members)
            work = _repeated(functools.partial(train, what.task, members, course))
            measured = clock.measure({"training": (of_all, work)})["training"]
            yield {
                "layer": m,
                "network": name,
                "batch_size": what.batch_size,
                "cells": len(members),
                "flops_per_cell_step": flops,
                "step_seconds": measured["seconds"] / setup.steps,
                **{key: measured[key] for key in ("gflops", "gflops_best", "share")},
            }


def tuning(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times as many candidates of one topology as cells of a grid, for as many steps each."""
    parts = inputs.random_parts(setup)
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), CANDIDATES, seed=0)
        layer = inputs.random_layer(m, chosen, setup)
        what = inputs.learnt(setup, m, parts)[STRONG]
        course, factors = _course(setup, what), np.geomspace(0.25, 4, CANDIDATES)
        cells = inputs.members(chosen, layer, what)
        candidates = inputs.members(chosen[:1], layer, what, tuple(factors))
        works = {
            "cells": _repeated(functools.partial(train, what.task, cells, course)),
            "candidates": _repeated(
                functools.partial(train, what.task, candidates, course, one_per_device=True)
            ),
        }
        measured = clock.measure({name: (1.0, work) for name, work in works.items()})
        seconds = {name: numbers["seconds"] for name, numbers in measured.items()}
        yield {
            "layer": m,
            "networks": CANDIDATES,
            "cells_seconds": seconds["cells"],
            "candidates_seconds": seconds["candidates"],
            "candidates_per_cells": seconds["candidates"] / seconds["cells"],
        }


def _course(setup: Setup, what: inputs.Learnt) -> Course:
    return Course(setup.steps, what.batch_size)


def _repeated(function: Callable[[], Any]) -> Work:
    def work(count: int) -> None:
        for _ in range(count):
            function()

    return work


def _step_flops(what: inputs.Learnt, member: Member) -> float:
    x = np.zeros((what.batch_size, *member.inputs.shape[1:]), np.float32)
    state = jax.eval_shape(functools.partial(init_state, what.task), jax.random.key(0), x)
    step_of_task = functools.partial(step, what.task)
    y = what.targets[: what.batch_size]
    return counted_by_xla(step_of_task, state, what.constants, x, y, np.float32(1e-3))


def _vgg_flops(num_layers: int, setup: Setup) -> int:
    everything = tuple(range(VGG16.cut(num_layers).channels))
    return 2 * local_cost(Topology(num_layers, everything), setup.image_size).macs


def _kept(num_layers: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(VGG16.cut(num_layers).channels)[:KEPT])
