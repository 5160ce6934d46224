"""What `experiments.benchmark` measures: extraction, training steps, and what cells cost.

Each function takes a `Setup` and a `timing.Clock` and returns rows of plain numbers for the table
and the JSON file. Images, features and parameters are random; functions, shapes and the spread over
devices are those of a characterisation.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking import inputs
from experiments.benchmarking.inputs import Learnt, Setup
from experiments.benchmarking.timing import Clock, Work, counted_by_xla
from privynet_jax import Course, Member, Topology, as_float, grid_cells, local_cost, train
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.forward import made_up_params
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.steps import init_state, step

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
    union = {m: np.arange(min(KEPT, VGG16.cut(m).channels)) for m in setup.layers}

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
            members = inputs.members(chosen, layer, what)
            flops = _step_flops(what, members[0])
            of_all = flops * setup.steps * len(members)
            work = _training(setup, what, members)
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
        cells = inputs.members(chosen, layer, what)
        factors = tuple(np.geomspace(0.25, 4, CANDIDATES))
        candidates = inputs.members(chosen[:1], layer, what, factors)
        works = {
            "cells": _training(setup, what, cells),
            "candidates": _training(setup, what, candidates, one_per_device=True),
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


def _training(setup: Setup, what: Learnt, members: Sequence[Member], **settings: Any) -> Work:
    course = Course(setup.steps, what.batch_size)

    def work(count: int) -> None:
        for _ in range(count):
            train(what.task, members, course, **settings)

    return work


def _step_flops(what: Learnt, member: Member) -> float:
    x = np.zeros((what.batch_size, *member.inputs.shape[1:]), np.float32)
    state = jax.eval_shape(functools.partial(init_state, what.task), jax.random.key(0), x)
    arguments = (state, what.constants, x, what.targets[: what.batch_size], np.float32(1e-3))
    return counted_by_xla(functools.partial(step, what.task), *arguments)


def _vgg_flops(num_layers: int, setup: Setup) -> int:
    everything = tuple(range(VGG16.cut(num_layers).channels))
    return 2 * local_cost(Topology(num_layers, everything), setup.image_size).macs
