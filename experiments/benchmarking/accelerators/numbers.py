"""Whether numbers are right on this device: against a CPU, and whatever runs beside what.

Full precision is asked for everywhere, so differences are those of sums in another order: some
1e-6 of what is summed, and more after steps of training, which amplify them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarking.accelerators.runner import Row, Settings
from experiments.benchmarking.accelerators.ways import WAYS, arguments_of, setup_of, steps_of
from experiments.benchmarking.inputs import (
    CLOUD_NN,
    Setup,
    learnt,
    members,
    random_images,
    random_layer,
)
from privynet_jax import Course, as_float, grid_cells, session, train
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.platform.devices import Spread, on_cpu
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.models.linear_attack import gather_statistics
from privynet_jax.training.steps import State, as_float32, step

_STEPS = 2


def numbers(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Differences from a CPU, from a cell that trains alone, and between ways to compute cells."""
    layers = (7,) if settings.quick else (2, 4, 7, 10)
    setup, cells = setup_of(settings), 2 if settings.quick else 4
    yield "extraction", lambda: _extraction(layers)
    yield "sums of the linear attack", _sums
    for layer in layers:
        for name in (CLOUD_NN, STRONG):
            what = functools.partial(_against_cpu, layer, name, setup)
            yield f"{name}, {layer} layers: against CPU", what
    for layer in layers:
        for name in (STRONG,) if settings.quick else (CLOUD_NN, STRONG):
            what = functools.partial(_company, layer, name, cells, setup)
            yield f"{name}, {layer} layers: alone, vmap and scan", what
            what = functools.partial(_ways, layer, name, cells, setup)
            yield f"{name}, {layer} layers: ways of computing cells", what


def _both(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """What a function gives here and on the CPU of the same machine."""
    arguments = jax.device_get(arguments)
    with jax.default_device("cpu"):
        expected = jax.device_get(jax.jit(function)(*arguments))
    return jax.device_get(jax.jit(function)(*arguments)), expected


def _difference(found: Any, expected: Any) -> float:
    """The largest difference of any array, of the root mean square of what was expected."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    worst = 0.0
    for one, other in pairs:
        one, other = np.float64(one), np.float64(other)
        scale = np.sqrt(np.mean(np.square(other))) or 1.0
        worst = max(worst, float(np.abs(one - other).max() / scale))
    return worst


def _extraction(layers: tuple[int, ...]) -> Row:
    extract = extractor(VGG16, {m: range(VGG16.cut(m).channels) for m in layers})
    images = as_float(random_images(16, 32))
    found, expected = _both(extract, made_up_params(VGG16, max(layers)), images)
    return {f"layer_{m}": _difference(found[m], expected[m]) for m in layers}


def _sums() -> Row:
    stream = np.random.default_rng(0)
    x = np.maximum(stream.standard_normal((64, 8, 8, 32), np.float32), 0)
    images = as_float(random_images(64, 32))

    def gathered() -> Any:
        sums = gather_statistics([(x, images)])
        return sums.gram, sums.cross

    with jax.default_device("cpu"):
        expected = gathered()
    return {"difference": _difference(gathered(), expected)}


def _against_cpu(layer: int, name: str, setup: Setup) -> Row:
    task, (states, constants, x, y) = arguments_of(layer, name, 1, setup)
    stream = np.random.default_rng(1)
    # Of zeros, with which last layers begin, most gradients are zero.
    params = jax.tree.map(
        lambda a: np.asarray(a[0]) + 0.02 * stream.standard_normal(a.shape[1:], np.float32),
        states.params,
    )
    constants, x, y = jax.tree.map(lambda a: a[0], (constants, np.float32(x), y))

    def outputs(params: Any, constants: Any, x: jax.Array) -> jax.Array:
        return task.predict(params, constants, as_float32(x))

    def first_step(state: State, constants: Any, x: jax.Array, y: jax.Array) -> Any:
        after, loss = step(task, state, constants, x, y, np.float32(0))
        return loss, after.optimiser  # whose moments are those of the first gradients

    state = State(params, jax.tree.map(lambda a: a[0], states.optimiser))
    (loss, moments), (loss_there, moments_there) = _both(first_step, state, constants, x, y)
    return {
        "outputs": _difference(*_both(outputs, params, constants, x)),
        "loss": _difference(loss, loss_there),
        "gradients": _difference(moments, moments_there),
    }


def _company(layer: int, name: str, count: int, setup: Setup) -> Row:
    """The trainer's losses of cells that train side by side, against each alone."""
    chosen = grid_cells((layer,), (setup.depth,), count, seed=0)
    what = learnt(setup, layer)[name]
    networks = members(chosen, random_layer(layer, chosen, setup), what)
    course = Course(2 * _STEPS, what.batch_size)

    def losses(cells: int, steps: int) -> np.ndarray:
        with session(spread=Spread(cells, steps)):
            return np.stack([own.losses for own in train(what.task, networks, course)])

    alone, row = losses(1, 1), {}
    spreads = {"vmap": (count, 1), "scan": (1, _STEPS), "vmap_and_scan": (count, _STEPS)}
    for way, spread in spreads.items():
        found = losses(*spread)
        row[f"{way}_first_loss"] = _difference(found[:, 0], alone[:, 0])
        row[f"{way}_last_loss"] = _difference(found[:, -1], alone[:, -1])
    return row


def _ways(layer: int, name: str, cells: int, setup: Setup) -> Row:
    """Losses of steps by each of the `ways`, against the first."""
    task, (begun, *rest) = arguments_of(layer, name, cells, setup)
    found = {}
    at_once = 1 if on_cpu() else _STEPS  # there, a scan of convolutions crawls
    for way in WAYS:
        steps = jax.jit(steps_of(way, task, cells, at_once))
        states, losses = begun, []
        for _ in range(0, _STEPS, at_once):
            states, own = steps(states, *rest)
            losses.append(jax.device_get(own))
        found[way] = np.concatenate(losses)
    return {way: _difference(losses, found[WAYS[0]]) for way, losses in found.items()}
