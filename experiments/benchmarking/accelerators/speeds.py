"""Products and extraction on an accelerator, and the same networks in PyTorch on the same card."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarking import against_torch
from experiments.benchmarking.accelerators.runner import Row, Settings
from experiments.benchmarking.accelerators.ways import clock_of, setup_of
from experiments.benchmarking.inputs import Setup, random_images
from experiments.benchmarking.parts import vgg_flops
from experiments.benchmarking.timing import GIGA, Clock
from privynet_jax import as_float
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.split import made_up_params
from privynet_jax.platform.devices import execution_for, on_cpu

LAYERS = (2, 4, 7, 10)


def extraction(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """The peak by precision, and VGG16's first layers by number of images at once."""
    clock = functools.cache(lambda: clock_of(settings))
    for kind in ("highest", "high", "default", "bfloat16"):
        yield f"matrix product, {kind}", lambda kind=kind: _product(clock(), settings, kind)
    layers = LAYERS[::2] if settings.quick else LAYERS
    batches = (32, 8) if settings.small else (256, 1024, 64, 4096)
    for batch in batches:
        for chosen in (*[(m,) for m in layers], layers):
            row = f"layers {', '.join(map(str, chosen))}, {batch} images at once"
            yield row, functools.partial(_extraction, clock, chosen, batch)


def torch(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """`against_torch`, a layer at a time."""
    if not importlib.util.find_spec("torch"):
        yield "PyTorch", lambda: {"skipped": "PyTorch is not installed"}
        return
    setup = Setup(peer_device="cpu" if on_cpu() else "cuda")
    if settings.quick:
        setup = setup_of(settings)
    clock = functools.cache(lambda: clock_of(settings))
    yield "PyTorch", lambda: {"version": against_torch.start(setup)}
    layers = LAYERS[::2] if settings.quick else (7, 2, 10, 4)
    for layer in layers:
        yield f"{layer} layers", functools.partial(_beside_torch, clock, setup, layer)
    if not settings.small:  # last, as compiling takes long
        compiled = dataclasses.replace(setup, compiled=True)
        for layer in layers:
            what = functools.partial(_beside_torch, clock, compiled, layer)
            yield f"{layer} layers, torch.compile", what


def _product(clock: Clock, settings: Settings, kind: str) -> Row:
    size = 512 if settings.quick else 1024 if settings.small else 8192
    dtype, precision = (jnp.bfloat16, "default") if kind == "bfloat16" else (jnp.float32, kind)
    stream = np.random.default_rng(0)
    one = jnp.asarray(stream.standard_normal((size, size), np.float32), dtype)
    product = jax.jit(functools.partial(jnp.matmul, precision=precision))
    found = clock.measure({kind: (2 * size**3, _repeated(product, one, one))})[kind]
    exact = np.float64(one[:64]) @ np.float64(one)
    error = np.abs(np.float64(product(one[:64], one)) - exact).max() / exact.std()
    return {"gflops": found["gflops"], "of_highest": found["share"], "relative_error": float(error)}


def _extraction(clock: Callable[[], Clock], layers: tuple[int, ...], batch: int) -> Row:
    images = jnp.asarray(as_float(random_images(batch, 32)))
    params = jax.device_put(made_up_params(VGG16, max(layers)))
    extract = jax.jit(extractor(VGG16, {m: range(VGG16.cut(m).channels) for m in layers}))
    flops = batch * vgg_flops(max(layers), Setup())
    found = clock().measure({"": (flops, _repeated(extract, params, images))})[""]
    return {
        "images_per_second": batch / found["seconds"],
        "tflops": found["gflops"] * GIGA / 1e12,
        "share": found["share"],
    }


def _repeated(function: Callable[..., object], *arguments: object) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            found = function(*arguments)
        jax.block_until_ready(found)  # in order, so the last one ends last

    return run


def _beside_torch(clock: Callable[[], Clock], setup: Setup, layer: int) -> Row:
    against_torch.start(setup)
    setup = dataclasses.replace(setup, layers=(layer,))
    execution = execution_for(2 if on_cpu() else 8, 1)
    rows = {}
    for row in against_torch.torch(setup, clock(), execution):
        what = row.pop("what").replace(" ", "_")
        known = {key: value for key, value in row.items() if value is not None}
        rows |= {f"{what}_{key}": value for key, value in known.items() if key != "layer"}
    return rows
