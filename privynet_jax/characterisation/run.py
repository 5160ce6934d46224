"""A whole characterisation: from a data set's name to a work directory full of results.

The main path: data, weights, features and candidates are brought together here; a mode measures
the missing cells, in rounds; each result is kept at once, and tables are written of all.

    results = characterise(Config(workdir=Path("runs/first"), layers=(2, 4), depths=(8, 32)))
"""

import contextlib
import dataclasses
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.features.feature_cache import load_features, reached
from privynet_jax.backbone.weights.sources import check_source, load_weights
from privynet_jax.characterisation.candidates import find_candidates
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.executors import Executor, executor_for
from privynet_jax.characterisation.grid_run import GridRun, cached_channels, checkpoint_folder
from privynet_jax.characterisation.references import attacked_pictures
from privynet_jax.errors import everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.cluster import Cluster, joined
from privynet_jax.platform.files import is_remote
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell
from privynet_jax.results.risk_tables import write_risk_tables
from privynet_jax.results.work_directory import REFERENCES, TEST_PICTURES, ResultStore
from privynet_jax.training.session import session

# Least seconds between two writings of the tables, and from one refreshing to the next in a round.
_TABLES_EVERY, _REFRESHED_EVERY = 5.0, 20.0


@dataclasses.dataclass(frozen=True, eq=False)
class Characterisation:
    """A characterisation, as far as it is done.

    Attributes:
        results: one per finished cell, in the grid's order.
        store: the work directory.
        examples: uint8 [K, H, W, 3], the test images whose reconstructions were kept.
    """

    results: list[CellResult]
    store: ResultStore
    examples: np.ndarray


def characterise(
    config: Config, refreshed: Callable[[Characterisation], Any] = lambda done: None
) -> Characterisation:
    """Runs what is missing of a grid and writes tables of all that is done.

    Args:
        config: what is characterised.
        refreshed: is given what is there, tables included, after each round of dedicated cells but
            the last, now and then within one, and before DivergedError is raised.

    Raises:
        DivergedError: training did, of some cells; all others are there.
        UserError: a setting is wrong, or data, weights or a cache cannot be had.
    """
    cells = config.cells()  # before anything is fetched or written
    check_source(config.weights, config.backbone)
    if is_remote(config.feature_cache):
        reached(config.feature_cache)
    kept = ResultStore(config.workdir)
    is_done = (config.workdir / REFERENCES).exists() and all(kept.has(c.name) for c in cells)
    needs_others = config.cluster and not is_done
    machines = joined(config.cluster) if needs_others else contextlib.nullcontext()
    with machines as hire, session(spread=config.spread):
        return _characterise(config, cells, hire, refreshed)


def _characterise(
    config: Config,
    cells: Sequence[Cell],
    hire: Callable[..., Cluster] | None,
    refreshed: Callable[[Characterisation], Any],
) -> Characterisation:
    parts = config.load_parts()
    weights = load_weights(config.weights, cache_dir=config.local_cache, backbone=config.backbone)
    store = ResultStore.open(config.workdir, config.deciding(parts, weights))
    channels = cached_channels(config, [cell.topology for cell in cells])
    where, dtype = config.feature_cache, config.feature_dtype
    features = functools.partial(load_features, weights, parts, channels, where, dtype=dtype)
    shown = spread_over_classes(parts.test.labels, config.examples)
    names, examples = [cell.name for cell in cells], parts.test.images[shown]

    def refresh() -> None:
        if results := store.write_tables(names):
            refreshed(Characterisation(results, store, examples))

    paused = _Seldom(refresh, _REFRESHED_EVERY)
    features = functools.cache(features)
    run = GridRun(config, (), (), parts, weights, features, shown, paused=paused)
    most = max(Counter(cell.topology.num_layers for cell in cells).values())
    executor = executor_for(run, channels, most, hire)
    candidates = find_candidates(config, cells, parts, weights, store, executor.searched)
    cells = config.cells(candidates) if candidates else cells
    missing = [cell for cell in cells if not store.has(cell.name)]
    with everything_first() as postponed:
        if missing:
            run = dataclasses.replace(run, cells=cells, missing=missing)
            with postponed():  # what diverged of some cells; the others may be looked at
                _run_missing(run, store, executor)
        if not (config.workdir / REFERENCES).exists():
            store.write_csv(REFERENCES, executor.references())
        # What is left is of groups of another number of devices, or of a run killed at its end.
        shutil.rmtree(checkpoint_folder(config), ignore_errors=True)
        if not (config.workdir / TEST_PICTURES).exists():
            store.save_test_pictures(attacked_pictures(parts))
        results = store.write_tables(names)
        write_risk_tables(store, results, config.mode)
        if len(results) < len(cells):
            refresh()
    return Characterisation(results, store, examples)


class _Seldom:
    """Calls a function again when a while has passed, and twenty times what it took.

    Tables and pictures take longer with every cell; they may never take more than a twentieth.
    """

    def __init__(self, function: Callable[[], Any], seconds: float) -> None:
        self._function, self._seconds, self._due = function, seconds, 0.0

    def __call__(self, now: bool = False) -> None:
        """Calls the function if it is due, as at first, or is asked for `now`."""
        begun = time.monotonic()
        if now or begun > self._due:
            self._function()
            ended = time.monotonic()
            self._due = ended + max(self._seconds, 20 * (ended - begun))


def _run_missing(run: GridRun, store: ResultStore, executor: Executor) -> None:
    """Has cells measured, and keeps each as soon as it is there."""
    names, done = [cell.name for cell in run.cells], len(run.cells) - len(run.missing)
    write_tables = _Seldom(lambda: store.write_tables(names), _TABLES_EVERY)
    executor.prepare()
    with progress_bar(len(run.cells), "characterising", "cells", done) as progress:
        for result, arrays in executor.rows(dataclasses.replace(run, progress=progress)):
            store.save(result, arrays)
            write_tables()
