"""What `experiments.benchmark` measures: extraction, training steps, and what cells cost.

Each function yields rows of plain numbers for the table and the JSON file. Images, features and
parameters are random: times do not depend on values. Functions, shapes and the spread over devices
are those of a characterisation. Operations are XLA's own count.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.benchmarking.inputs import (
    Learnt,
    Row,
    Setup,
    learnt,
    members,
    random_images,
    random_layer,
)
from experiments.benchmarking.timing import Clock, Work, counted_by_xla, repeated
from privynet_jax import Course, Member, as_float, grid_cells, train
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.extraction import images_per_batch, placed
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.images.decoding import decoded_ahead
from privynet_jax.platform.devices import Execution, each_for_itself
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.steps import init_state, step

# Networks of a tuning, and cells beside them.
CANDIDATES = 6
# Channels that a cache keeps of a layer: about the union of a few cells' 32.
KEPT = 64


def decoding(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times pictures of 256 x 256 pixels, from files in memory to arrays, on all cores."""
    picture = Image.fromarray(random_images(1, 32)[0]).resize((256, 256), Image.Resampling.BICUBIC)
    for kind in ("JPEG", "PNG"):
        picture.save(file := io.BytesIO(), kind)
        pictures = [("", file.getvalue())] * setup.images

        def decode(pictures: list[tuple[str, bytes]] = pictures) -> None:
            for ahead in decoded_ahead(pictures, setup.image_size, skip=False):
                ahead.result()

        seconds = clock.measure({kind: (0.0, functools.partial(repeated, decode))})[kind]["seconds"]
        yield {"kind": kind, "images_per_second": setup.images / seconds}


def extraction(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times VGG16's pass to each layer alone, to all in one, and to all as the cache writes it."""
    split, params = placed(made_up_params(VGG16, max(setup.layers)))
    batch = images_per_batch(setup.image_size) * len(split.device_set)
    stored = random_images(batch, setup.image_size)
    images = jax.device_put(as_float(stored), split)
    stream = np.random.default_rng(0)
    union = {m: np.sort(stream.permutation(VGG16.cut(m).channels)[:KEPT]) for m in setup.layers}

    def work(layers: Sequence[int]) -> Any:
        extract = each_for_itself(extractor(VGG16, {m: union[m] for m in layers}), split)
        return lambda n: jax.block_until_ready([extract(params, images) for _ in range(n)])

    cached = each_for_itself(extractor(VGG16, union, lambda _, x: jnp.float16(0.5 * x)), split)

    def cache(count: int) -> None:
        for _ in range(count):
            jax.device_get(cached(params, jax.device_put(as_float(stored), split)))

    works = {str(m): (batch * vgg_flops(m, setup), work([m])) for m in setup.layers}
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
        layer = random_layer(m, chosen, setup)
        for name, what in learnt(setup, m).items():
            networks = members(chosen, layer, what)
            flops = step_flops(what, networks[0])
            of_all = flops * setup.steps * len(networks)
            work = trained(setup, what, networks)
            measured = clock.measure({"training": (of_all, work)})["training"]
            yield {
                "layer": m,
                "network": name,
                "cells": len(networks),
                "flops_per_cell_step": flops,
                "step_seconds": measured["seconds"] / setup.steps,
                **{key: measured[key] for key in ("gflops", "gflops_best", "share")},
            }


def tuning(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times as many candidates of one topology as cells of a grid, for as many steps each."""
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), CANDIDATES, seed=0)
        layer = random_layer(m, chosen, setup)
        what = learnt(setup, m)[STRONG]
        cells = members(chosen, layer, what)
        factors = tuple(np.geomspace(0.25, 4, CANDIDATES))
        candidates = members(chosen[:1], layer, what, factors)
        works = {
            "cells": trained(setup, what, cells),
            "candidates": trained(setup, what, candidates, one_per_device=True),
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


def trained(setup: Setup, what: Learnt, members: Sequence[Member], **settings: Any) -> Work:
    """Returns what trains networks through the trainer, all steps of the setup at once."""
    course = Course(setup.steps, what.batch_size)
    run = functools.partial(train, what.task, members, course, **settings)
    return functools.partial(repeated, run)


def step_flops(what: Learnt, member: Member) -> float:
    """Returns XLA's count of a training step's operations."""
    x = np.zeros((what.batch_size, *member.inputs.shape[1:]), np.float32)
    state = jax.eval_shape(functools.partial(init_state, what.task), jax.random.key(0), x)
    arguments = (state, what.constants, x, what.targets[: what.batch_size], np.float32(1e-3))
    return counted_by_xla(functools.partial(step, what.task), *arguments)


def vgg_flops(num_layers: int, setup: Setup) -> float:
    """Returns XLA's count of the operations of VGG16's first layers for one image."""
    everything = {num_layers: range(VGG16.cut(num_layers).channels)}
    image = np.zeros((1, setup.image_size, setup.image_size, 3), np.float32)
    _, params = placed(made_up_params(VGG16, num_layers))
    return counted_by_xla(extractor(VGG16, everything), params, image)
