"""Attacks on an accelerator: precision against strength, and a grid of the paper's size."""

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarking.accelerators import materials
from experiments.benchmarking.accelerators.rewriting import in_precision, rewritten
from experiments.benchmarking.accelerators.runner import COMPLETE, Row, Settings
from privynet_jax import (
    Budget,
    Config,
    Parts,
    Protocol,
    Schedule,
    Training,
    characterise,
    grid_cells,
    measure,
    named_attacks,
)
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.platform import signals
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.models.attackers import STRONG

BFLOAT16 = "bfloat16"
# Up to this layer, features of all 60,000 images and 64 channels take gigabytes: as bytes, half.
_LARGE = 4


@dataclasses.dataclass(frozen=True)
class InPrecision:
    """A network whose products have another precision, forward and backward; see `wrapped`."""

    network: Any
    precision: str

    @property
    def image_size(self) -> int:
        """Side of its images."""
        return self.network.image_size

    def init(self, *arguments: Any) -> Any:
        """The network's own."""
        return self.network.init(*arguments)

    def apply(self, *arguments: Any) -> jax.Array:
        """The network's own, in the precision."""
        return rewritten(self.network.apply, in_precision(self.precision))(*arguments)


@dataclasses.dataclass(frozen=True)
class PaperGrid(Config):
    """Settings whose images are cut from the photographs."""

    cut: Callable[[], Parts] | None = dataclasses.field(default=None, metadata={"decides": False})

    def load_parts(self) -> Parts:
        """Returns the patches."""
        return self.cut()


def precision(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """PSNR and seconds of the strong attacker, by precision of its network."""
    parts = functools.cache(lambda: _parts(settings, 400 if settings.quick else 10_000))
    for layer in (4,) if settings.quick else (4, 7, 2, 10):
        # To the networks, "default" is one more precision such as "high".
        for kind in ("highest", "high", *(() if settings.quick else ("default",)), BFLOAT16):
            what = functools.partial(_attacked, settings, parts, layer, kind)
            yield f"{layer} layers, {kind}", what


def grid(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A characterisation like the paper's, a layer at a time, as far as it comes.

    Run again, it goes on. All layers at once would write features for minutes before the first
    cell trains.
    """
    parts = functools.cache(lambda: _parts(settings, 400 if settings.quick else 60_000))
    for layer in (4,) if settings.quick else (7, 4, 10, 2, 9, 8, 6, 5, 3, 1):
        yield f"{layer} layers", functools.partial(_characterised, settings, parts, layer)


def _parts(settings: Settings, count: int) -> Parts:
    return materials.cut_patches(materials.photograph_files(settings), count)


def _attacked(settings: Settings, parts: Callable[[], Parts], layer: int, kind: str) -> Row:
    _, weights = materials.load(settings)
    draws, steps = (2, 4) if settings.quick else (4, 1000 if settings.small else 3000)
    cells = grid_cells((layer,), (32,), draws, seed=0)
    topologies = [cell.topology for cell in cells]
    features = load_features(weights, parts(), needed_channels(topologies), settings.scratch)
    scenes = [Scenario(topology, parts(), features[layer]) for topology in topologies]
    training = Training(Budget(steps, batch_size=16))
    if kind == BFLOAT16:
        training = dataclasses.replace(training, dtype=kind)
    elif kind != "highest":
        wrapped = functools.partial(InPrecision, precision=kind)
        training = dataclasses.replace(training, wrapped=wrapped)
    # Once for few steps, which compiles, and then in earnest.
    for amount in dict.fromkeys((min(20, steps), steps)):
        budget = dataclasses.replace(training.budget, steps=amount)
        attacks = named_attacks([STRONG], dataclasses.replace(training, budget=budget))
        begun = time.perf_counter()
        found = measure(cells, scenes, Protocol(attacks=attacks), seed=0)
        seconds = time.perf_counter() - begun
    psnr = [float(np.mean(own.attacks[STRONG]["test"]["psnr_db"])) for own in found]
    return {"psnr_db": float(np.mean(psnr)), "of_cells": psnr, "steps": steps, "seconds": seconds}


def _characterised(settings: Settings, cut: Callable[[], Parts], layer: int) -> Row:
    source, _ = materials.load(settings)
    begun = time.perf_counter()
    images = sum(len(part) for _, part in cut().items())
    row: Row = {"images": images, "cutting_seconds": time.perf_counter() - begun}
    steps = 4 if settings.quick else 5000
    config = PaperGrid(
        settings.scratch / f"grid-{images}-{layer}",
        weights=source,
        layers=(layer,),
        depths=(8,) if settings.quick else (4, 8, 16, 32, 64),
        draws=2 if settings.quick else 3,
        cache_dir=settings.scratch,
        feature_dtype="uint8" if layer <= _LARGE else "float16",
        cloud=Schedule(steps),
        attacker=Schedule(steps, batch_size=16, learning_rate=None),
        checkpoint_minutes=1.0,
        cut=cut,
    )
    begun = time.perf_counter()
    try:
        with _stopping(settings.stop):
            done, complete = characterise(config).results, True
    except signals.Terminated:
        if time.monotonic() < settings.stop:
            raise  # somebody else's
        store, complete = ResultStore(config.workdir), False
        done = [store.load(cell.name) for cell in config.cells() if store.has(cell.name)]
    row |= {"seconds": time.perf_counter() - begun, "steps": steps, "done": len(done)}
    row |= {"cells": len(config.cells()), COMPLETE: complete}
    for own in done:
        psnr = round(own.strongest.psnr_db.mean, 2)
        row[own.name] = [round(own.accuracy, 4), psnr, round(own.train_seconds, 2)]
    return row


@contextlib.contextmanager
def _stopping(when: float) -> Iterator[None]:
    """Sends this process SIGTERM at a time, so that what is in training is saved."""
    left = min(max(0.0, when - time.monotonic()), threading.TIMEOUT_MAX)
    bell = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
    bell.daemon = True
    bell.start()
    try:
        yield
    finally:
        bell.cancel()
