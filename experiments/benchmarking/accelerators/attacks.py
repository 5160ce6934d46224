"""Attacks on an accelerator: precision against strength, and a grid of the paper's size."""

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
        for kind in ("highest", "high", "default", BFLOAT16):
            what = functools.partial(_attacked, settings, parts, layer, kind)
            yield f"{layer} layers, {kind}", what


def grid(settings: Settings) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A characterisation like the paper's, as far as it comes; run again, it goes on."""
    yield "characterisation", lambda: _characterised(settings)


def _parts(settings: Settings, count: int) -> Parts:
    return materials.cut_patches(materials.photograph_files(settings), count)


def _attacked(settings: Settings, parts: Callable[[], Parts], layer: int, kind: str) -> Row:
    _, weights = materials.load(settings)
    draws, steps = (2, 20) if settings.quick else (4, 1000 if settings.small else 3000)
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
    for amount in (20, steps):
        budget = dataclasses.replace(training.budget, steps=amount)
        attacks = named_attacks([STRONG], dataclasses.replace(training, budget=budget))
        begun = time.perf_counter()
        found = measure(cells, scenes, Protocol(attacks=attacks), seed=0)
        seconds = time.perf_counter() - begun
    psnr = [float(np.mean(own.attacks[STRONG]["test"]["psnr_db"])) for own in found]
    return {"psnr_db": float(np.mean(psnr)), "of_cells": psnr, "steps": steps, "seconds": seconds}


def _characterised(settings: Settings) -> Row:
    source, _ = materials.load(settings)
    count, begun = (400 if settings.quick else 60_000), time.perf_counter()
    parts = _parts(settings, count)
    few = {"layers": (4,), "depths": (8,), "draws": 2} if settings.quick else {}
    paper = {"layers": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "depths": (4, 8, 16, 32, 64), "draws": 3}
    steps = 20 if settings.quick else 5000
    config = PaperGrid(
        settings.scratch / f"grid-{count}",
        weights=source,
        cache_dir=settings.scratch,
        cloud=Schedule(steps),
        attacker=Schedule(steps, batch_size=16, learning_rate=None),
        checkpoint_minutes=1.0,
        cut=lambda: parts,
        **(few or paper),
    )
    row = {"images": sum(len(part) for _, part in parts.items()), "steps": steps}
    row |= {"cutting_seconds": time.perf_counter() - begun, "cells": len(config.cells())}
    begun = time.perf_counter()
    # A stop saves what is in training, as SIGTERM from outside does.
    left = min(settings.stop - time.monotonic(), threading.TIMEOUT_MAX)
    bell = threading.Timer(max(0.0, left), os.kill, (os.getpid(), signal.SIGTERM))
    bell.daemon = True
    bell.start()
    try:
        done = characterise(config).results
        complete = True
    except signals.Terminated:
        store = ResultStore(config.workdir)
        done = [store.load(cell.name) for cell in config.cells() if store.has(cell.name)]
        complete = False
    finally:
        bell.cancel()
    seconds = time.perf_counter() - begun
    table = {
        own.name: [round(own.accuracy, 4), round(own.strongest.psnr_db.mean, 2), own.train_seconds]
        for own in done
    }
    return row | {"seconds": seconds, "done": len(done), COMPLETE: complete, "table": table}
