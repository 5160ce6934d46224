"""This project and PyTorch in turn: the same networks, features, batches and processor.

Seconds are per step of one network, and per image of extraction: here, devices work on networks
side by side; there, on one after the other.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarking.inputs import (
    Learnt,
    Row,
    Setup,
    learnt,
    members,
    random_images,
    random_layer,
)
from experiments.benchmarking.parts import step_flops, trained, vgg_flops
from experiments.benchmarking.timing import Clock, Work
from privynet_jax import Member, as_float, grid_cells
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.extraction import images_per_batch
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.training.steps import as_float32

PEER, COMPILED, HERE = "torch", "torch_compiled", "here"


def torch(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times training steps and extraction of both."""
    yield from _extraction(setup, clock)
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), execution.group_size, seed=0)
        layer = random_layer(m, chosen, setup)
        for name, what in learnt(setup, m).items():
            yield {
                "layer": m,
                "what": name,
                **_training(setup, clock, what, members(chosen, layer, what)),
            }


def _training(setup: Setup, clock: Clock, what: Learnt, networks: list[Member]) -> Row:
    flops, count = step_flops(what, networks[0]) * setup.steps, len(networks)
    works = {
        **_torch_trainings(setup, what, networks[0], flops),
        HERE: (flops * count, trained(setup, what, networks)),
    }
    each = dict.fromkeys(works, setup.steps) | {HERE: setup.steps * count}
    return _compared(clock, works, each)


def _torch_trainings(
    setup: Setup, what: Learnt, member: Member, flops: float
) -> dict[str, tuple[float, Work]]:
    from experiments.benchmarking import torch_peer

    features = np.asarray(member.inputs[:])
    example = as_float32(jax.numpy.asarray(features[: what.batch_size]))
    params = jax.jit(what.task.init)(member.key, example)
    works = {}
    for name, compiled in {PEER: False, COMPILED: True}.items():
        if compiled and not (setup.compiled and torch_peer.compiles()):
            continue
        network = torch_peer.network_of(what, params, features.shape[1:], setup)
        arrays = features, what.targets
        training = torch_peer.Training(
            network, arrays, what.batch_size, member.learning_rate, compiled=compiled
        )
        works[name] = (flops, functools.partial(_repeated, training.run, setup.steps))
    return works


def _extraction(setup: Setup, clock: Clock) -> Iterator[Row]:
    from experiments.benchmarking import torch_peer

    split, everywhere = data_parallel()
    batch = images_per_batch(setup.image_size) * len(split.device_set)
    images = as_float(random_images(batch, setup.image_size))
    made_up = made_up_params(VGG16, max(setup.layers))
    params, placed = jax.device_put(made_up, everywhere), jax.device_put(images, split)
    for m in setup.layers:
        union = {m: np.arange(VGG16.cut(m).channels)}
        here = functools.partial(_extracted, jax.jit(extractor(VGG16, union)), params, placed)
        there = functools.partial(_repeated, torch_peer.extraction(made_up, m, images))
        flops = batch * vgg_flops(m, setup)
        works = {PEER: (flops, there), HERE: (flops, here)}
        yield {
            "layer": m,
            "what": "extraction",
            **_compared(clock, works, dict.fromkeys(works, batch)),
        }


def _compared(clock: Clock, works: dict[str, tuple[float, Work]], each: dict[str, int]) -> Row:
    """Times works, the peer's first; seconds are of one in so many."""
    measured = clock.measure(works)
    row = {f"{name}_seconds": found["seconds"] / each[name] for name, found in measured.items()}
    row["here_share"] = measured[HERE]["share"]
    factor = each[PEER] / each[HERE]
    return row | {"of_torch": measured[HERE]["of_first"] * factor}


def _extracted(extract: Any, params: Any, images: jax.Array, count: int) -> None:
    jax.block_until_ready([extract(params, images) for _ in range(count)])


def _repeated(function: Any, *arguments: Any) -> None:
    *arguments, count = arguments
    for _ in range(count):
        function(*arguments)
