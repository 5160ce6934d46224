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
    CLOUD_NN,
    Row,
    Setup,
    first_params,
    learnt,
    members,
    random_images,
    random_layer,
)
from experiments.benchmarking.parts import step_flops, trained, vgg_flops
from experiments.benchmarking.timing import Clock, Work, repeated
from privynet_jax import as_float, grid_cells
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.extraction import images_per_batch, placed
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.platform.devices import Execution, each_for_itself
from privynet_jax.training.models.attackers import STRONG

PEER, COMPILED, DECODER, HERE = "torch", "torch_compiled", "decoder", "here"


def start(setup: Setup) -> str:
    """Makes PyTorch ready; returns what it is, for the record."""
    from experiments.benchmarking import torch_peer

    lacking = setup.compiled and not torch_peer.compiles()
    return torch_peer.start(setup.peer_device) + ", no compiler for torch.compile" * lacking


def torch(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times training steps and extraction of both."""
    yield from _extraction(setup, clock)
    for m in setup.layers:
        for name in (CLOUD_NN, STRONG):
            yield {"layer": m, "what": name, **steps_row(m, name, setup, clock, execution)}


def steps_row(num_layers: int, name: str, setup: Setup, clock: Clock, execution: Execution) -> Row:
    """Returns the seconds of a training step of one network; of an attacker, of a decoder too."""
    from experiments.benchmarking import torch_networks, torch_peer

    chosen = grid_cells((num_layers,), (setup.depth,), execution.group_size, seed=0)
    what = learnt(setup, num_layers)[name]
    networks = members(chosen, random_layer(num_layers, chosen, setup), what)
    features, flops = np.asarray(networks[0].inputs[:]), step_flops(what, networks[0])
    shape = features.shape[1:]
    params = first_params(what, networks[0])
    rate, device = networks[0].learning_rate, setup.peer_device
    recipe = torch_peer.Recipe(what.batch_size, rate, device=device)

    def peer(network: Any, recipe: Any) -> tuple[float, Work]:
        training = torch_peer.Training(network, (features, what.targets), recipe)
        return setup.steps * flops, functools.partial(
            repeated, functools.partial(training.run, setup.steps)
        )

    works = {PEER: peer(torch_peer.network_of(what, params, shape, setup), recipe)}
    if setup.compiled and torch_peer.compiles():
        network = torch_peer.network_of(what, params, shape, setup)
        works[COMPILED] = peer(network, recipe._replace(compiled=True))
    if name == STRONG:
        works[DECODER] = peer(torch_networks.Decoder(shape, setup.image_size), recipe)
    here = trained(setup, what, networks)
    works[HERE] = (setup.steps * flops * len(networks), here)
    each = dict.fromkeys(works, setup.steps) | {HERE: setup.steps * len(networks)}
    return _compared(clock, works, each)


def _extraction(setup: Setup, clock: Clock) -> Iterator[Row]:
    from experiments.benchmarking import torch_peer

    made_up = made_up_params(VGG16, max(setup.layers))
    split, params = placed(made_up)
    batch = images_per_batch(setup.image_size) * len(split.device_set)
    images = as_float(random_images(batch, setup.image_size))
    shared = jax.device_put(images, split)
    for m in setup.layers:
        union = {m: np.arange(VGG16.cut(m).channels)}
        here = functools.partial(
            _extracted, each_for_itself(extractor(VGG16, union), split), params, shared
        )
        extract = torch_peer.extraction(made_up, m, images, setup.peer_device)
        there = functools.partial(repeated, extract)
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
    row = dict.fromkeys(f"{name}_seconds" for name in (PEER, COMPILED, DECODER, HERE))
    row |= {f"{name}_seconds": found["seconds"] / each[name] for name, found in measured.items()}
    row["here_share"] = measured[HERE]["share"]
    peer, here, factor = measured[PEER], measured[HERE], each[PEER] / each[HERE]
    # Where something else computes now and then, the fastest turns met it least.
    best = factor * here["seconds_best"] / peer["seconds_best"]
    return row | {"of_torch": factor * here["of_first"], "of_torch_best": best}


def _extracted(extract: Any, params: Any, images: jax.Array, count: int) -> None:
    jax.block_until_ready([extract(params, images) for _ in range(count)])
