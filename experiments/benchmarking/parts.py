"""What `experiments.benchmark` measures: extraction, training steps, and what cells cost.

Each function yields rows of plain numbers for the table and the JSON file. Images, features and
parameters are random: times do not depend on values. Functions, shapes and the spread over devices
are those of a characterisation. VGG16's operations are two per multiply-accumulate; those of a
training step are XLA's own count.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking.timing import Clock, Work, counted_by_xla
from privynet_jax import Course, Member, Topology, as_float, cloud_nn, grid_cells, local_cost, train
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.backbone.features.layer_features import LayerFeatures, extractor, needed_channels
from privynet_jax.backbone.split import made_up_params
from privynet_jax.images.parts import PART_NAMES
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.platform.row_views import ChosenChannels
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.steps import init_state, step
from privynet_jax.training.tasks import Task, cloud_task

# Classes of the random images.
CLASSES = 30
# Networks of a tuning, and cells beside them.
CANDIDATES = 6
# Channels that a cache keeps of a layer: about the union of a few cells' 32.
KEPT = 64
_CLOUD_BATCH, _ATTACKER_BATCH = 32, 16  # the quickstart's
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is measured; defaults are the quickstart's. The cloud NN has `width` channels."""

    layers: tuple[int, ...] = (2, 4, 7, 10)
    image_size: int = 32
    depth: int = 32
    width: int = 64
    images: int = 1000
    steps: int = 20


class Learnt(NamedTuple):
    """What one of a cell's networks learns: a task, and what it needs with random images."""

    task: Task
    batch_size: int
    targets: np.ndarray
    constants: Any


def extraction(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times VGG16's pass to each layer alone, to all in one, and to all as the cache writes it."""
    split, everywhere = data_parallel()
    batch = images_per_batch(setup.image_size) * len(split.device_set)
    stored = _random_images(batch, setup.image_size)
    images = jax.device_put(as_float(stored), split)
    params = jax.device_put(made_up_params(VGG16, max(setup.layers)), everywhere)
    stream = np.random.default_rng(0)
    union = {m: np.sort(stream.permutation(VGG16.cut(m).channels)[:KEPT]) for m in setup.layers}

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
    deepest = str(max(setup.layers))
    if len(setup.layers) > 1:
        works["all"] = (works[deepest][0], work(setup.layers))
    works["all, as cached"] = (works[deepest][0], cache)
    measured = clock.measure(works)
    for name, numbers in measured.items():
        rate = {"images_per_second": batch / numbers["seconds"]}
        relative = {"time_of_deepest": numbers["seconds"] / measured[deepest]["seconds"]}
        yield {"layers": name, **rate, **relative, **numbers}


def training(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times trainings of as many cells as the devices hold, through the trainer."""
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), execution.group_size, seed=0)
        layer = _random_layer(m, chosen, setup)
        for name, what in _learnt(setup, m).items():
            members = _members(chosen, layer, what)
            flops = _step_flops(what, members[0])
            of_all = flops * setup.steps * len(members)
            work = _training(setup, what, members)
            measured = clock.measure({"training": (of_all, work)})["training"]
            yield {
                "layer": m,
                "network": name,
                "cells": len(members),
                "flops_per_cell_step": flops,
                "step_seconds": measured["seconds"] / setup.steps,
                **{key: measured[key] for key in ("gflops", "gflops_best", "share")},
            }


def tuning(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times as many candidates of one topology as cells of a grid, for as many steps each."""
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), CANDIDATES, seed=0)
        layer = _random_layer(m, chosen, setup)
        what = _learnt(setup, m)[STRONG]
        cells = _members(chosen, layer, what)
        factors = tuple(np.geomspace(0.25, 4, CANDIDATES))
        candidates = _members(chosen[:1], layer, what, factors)
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


def _learnt(setup: Setup, num_layers: int) -> dict[str, Learnt]:
    network = cloud_nn(CLASSES, setup.image_size, setup.width)
    strong = CAPACITIES[STRONG].task(setup.image_size)
    values = VGG16.cut(num_layers).stride ** 2 * 3
    kernel = np.zeros((3, 3, setup.depth, values), np.float32)
    attack = LinearAttack(kernel, np.zeros(values, np.float32))  # of the right shape
    images = _random_images(setup.images, setup.image_size)
    labels = np.arange(setup.images, dtype=np.int32) % CLASSES
    return {
        "cloud NN": Learnt(cloud_task(network), _CLOUD_BATCH, labels, ()),
        STRONG: Learnt(strong, _ATTACKER_BATCH, images, attack),
    }


def _members(
    chosen: Sequence[Cell], layer: LayerFeatures, what: Learnt, factors: Sequence[float] = (1.0,)
) -> list[Member]:
    stored = layer.parts["target"]
    width = chosen[0].topology.depth
    return [
        Member(
            key=training_key(cell, 0),
            inputs=ChosenChannels(stored, layer.positions(cell.topology.channels), width),
            targets=what.targets,
            rows=np.arange(len(what.targets)),
            learning_rate=1e-3 * factor,
            constants=what.constants,
        )
        for cell in chosen
        for factor in factors
    ]


def _random_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _random_layer(num_layers: int, chosen: Sequence[Cell], setup: Setup) -> LayerFeatures:
    """Features like normalised ones: half of them zero, the others of about one size."""
    channels = needed_channels([cell.topology for cell in chosen])[num_layers]
    shape = Topology(num_layers, channels).representation_shape(setup.image_size)
    some = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    stored = np.resize(np.float16(np.maximum(some, 0)), (setup.images, *shape))
    scales = np.ones(len(channels), np.float32)
    return LayerFeatures(num_layers, channels, dict.fromkeys(PART_NAMES, stored), scales)
