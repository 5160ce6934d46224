"""What `experiments.benchmark` measures of networks in use, and of attacks on single images.

Operations are XLA's own count: of networks their outputs alone, without metrics.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmarking.inputs import (
    CLOUD_NN,
    Learnt,
    Row,
    Setup,
    first_params,
    learnt,
    members,
    random_images,
    random_layer,
    random_parts,
)
from experiments.benchmarking.timing import Clock, counted_by_xla, repeated
from privynet_jax import Topology, as_float, grid_cells
from privynet_jax.attacks import matching
from privynet_jax.attacks.base import FittedAttack
from privynet_jax.attacks.matching import Known, Matcher, Weights
from privynet_jax.attacks.pixel_prior import PixelPrior
from privynet_jax.attacks.scenario import Scenario, score
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_nn, made_up_params
from privynet_jax.platform.devices import Execution, on_cpu
from privynet_jax.training.prediction import measured, predicted
from privynet_jax.training.steps import outputs_of

# Images that are matched, in several batches on a CPU; and whose outputs' operations are counted.
_MATCHED, _COUNTED = 32, 64


def evaluation(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times outputs and metrics of images, as trained networks are scored."""
    for m in setup.layers:
        chosen = grid_cells((m,), (setup.depth,), 1, seed=0)
        layer, parts = random_layer(m, chosen, setup), random_parts(setup)
        for name, what in learnt(setup, m).items():
            [member] = members(chosen, layer, what)
            params = first_params(what, member)
            if name == CLOUD_NN:
                data = (member.inputs, what.targets)
                work = functools.partial(measured, what.task, params, (), *data)
            else:
                answer = functools.partial(predicted, what.task, params, what.constants)
                scene = Scenario(chosen[0].topology, parts, layer)
                work = functools.partial(score, FittedAttack(answer, {}), scene)
            flops = setup.images * _output_flops(what, params, member.inputs.shape[1:])
            found = clock.measure({"": (flops, functools.partial(repeated, work))})[""]
            yield {
                "layer": m,
                "network": name,
                "images_per_second": setup.images / found["seconds"],
                **{key: found[key] for key in ("gflops", "gflops_best", "share")},
            }


def white_box(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Times white-box optimisation, whose steps are a pass through the local NN and back.

    As attackers have it: on CPUs in tiles, which `by_tiles` compares with direct convolutions.
    """
    size = setup.image_size
    images = as_float(random_images(_MATCHED, size))
    prior = PixelPrior(np.full((size, size, 3), 0.1, np.float32), np.eye(3, dtype=np.float32))
    params = made_up_params(VGG16, max(setup.layers))
    for m in setup.layers:
        topology = Topology(m, tuple(range(setup.depth)))
        ways = {"": local_nn(params, topology, tiled=on_cpu())}
        if on_cpu():
            ways["direct"] = local_nn(params, topology)
        weights = Weights(*np.ones((2, _MATCHED), np.float32))
        shown = np.asarray(jax.jit(ways[""])(images))
        known = Known(shown, np.full_like(images, 0.5), weights)
        works = {}
        for way, local in ways.items():
            work = functools.partial(Matcher(local, prior), *known, setup.steps)
            state = jax.eval_shape(functools.partial(matching.start, local), prior, known)
            flops = counted_by_xla(functools.partial(matching.step, local), prior, known, state)
            works[way] = flops * setup.steps, functools.partial(repeated, work)
        measured_ways = clock.measure(works)
        found = measured_ways[""]
        yield {
            "layer": m,
            "image_steps_per_second": _MATCHED * setup.steps / found["seconds"],
            "by_tiles": measured_ways.get("direct", found)["of_first"],
            **{key: found[key] for key in ("gflops", "gflops_best", "share")},
        }


def _output_flops(what: Learnt, params: object, shape: tuple[int, ...]) -> float:
    """Operations for one image."""
    x = np.zeros((_COUNTED, *shape), np.float32)
    flops = counted_by_xla(functools.partial(outputs_of, what.task), params, what.constants, x)
    return flops / _COUNTED
