"""A whole characterisation: from a data set's name to a work directory full of results.

The main path: data, weights, features and candidates are brought together here; a mode measures
the missing cells, in rounds; each result is kept at once, and tables are written of all.

    results = characterise(Config(workdir=Path("runs/first"), layers=(2, 4), depths=(8, 32)))
"""

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.features.feature_cache import load_features, reached
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import local_cost
from privynet_jax.backbone.weights.sources import check_source, load_weights
from privynet_jax.characterisation.candidates import find_candidates
from privynet_jax.characterisation.config import DEDICATED, Config
from privynet_jax.characterisation.grid_run import (
    GridRun,
    cached_channels,
    checkpoint_folder,
    checkpoint_of,
    dedicated_measurements,
)
from privynet_jax.characterisation.perceptual import images_for, perceptual_distance
from privynet_jax.characterisation.references import attacked_pictures, reference_rows
from privynet_jax.characterisation.scoring import estimated_measurements
from privynet_jax.errors import DivergedError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.devices import environment
from privynet_jax.platform.files import is_remote
from privynet_jax.platform.processes import share_of
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import AttackResult, CellResult, accuracy_columns
from privynet_jax.results.cells import Measurement
from privynet_jax.results.risk_tables import PERCEPTUAL, write_risk_tables
from privynet_jax.results.work_directory import REFERENCES, TEST_PICTURES, ResultStore
from privynet_jax.training.session import session

# Least seconds between two writings of the tables, and from one refreshing to the next in a round.
_TABLES_EVERY, _REFRESHED_EVERY = 5.0, 20.0


@dataclasses.dataclass(frozen=True, eq=False)
class Characterisation:
    """A characterisation, as far as it is done.

    Attributes:
        results: one per finished cell, in the grid's order.
        complete: whether nothing is missing; else this or other processes are still at work.
        store: the work directory.
        examples: uint8 [K, H, W, 3], the test images whose reconstructions were kept.
    """

    results: list[CellResult]
    complete: bool
    store: ResultStore
    examples: np.ndarray


def characterise(
    config: Config, refreshed: Callable[[Characterisation], Any] = lambda done: None
) -> Characterisation:
    """Runs what is missing of this process's share and writes tables of all that is done.

    Args:
        config: what is characterised.
        refreshed: is given what is there, tables included, after each round of dedicated cells but
            the last, and now and then within one; by process 0 alone.

    Raises:
        DivergedError: training did, of some cells; all others are there.
        UserError: a setting is wrong, or data, weights or a cache cannot be had.
    """
    cells = config.cells()  # before anything is fetched or written
    check_source(config.weights, config.backbone)
    if is_remote(config.feature_cache):
        reached(config.feature_cache)
    parts = config.load_parts()
    weights = load_weights(config.weights, cache_dir=config.local_cache, backbone=config.backbone)
    store = ResultStore.open(config.workdir, config.deciding(parts, weights))

    @functools.cache
    def features() -> dict[int, LayerFeatures]:
        union = cached_channels(config, [cell.topology for cell in cells])
        own, where = (config.share.index, config.share.count), config.feature_cache
        return load_features(weights, parts, union, where, dtype=config.feature_dtype, share=own)

    # The first of them are the examples that are kept, the others are for the distance alone.
    count = images_for(config.image_size) if config.mode == DEDICATED else 0
    judged = spread_over_classes(parts.test.labels, max(count, config.examples))
    names, examples = [cell.name for cell in cells], parts.test.images[judged[: config.examples]]

    def refresh() -> None:
        if config.share.index == 0 and (results := store.write_tables(names)):
            refreshed(Characterisation(results, False, store, examples))

    with session(spread=config.spread):
        cells = config.cells(find_candidates(config, parts, weights, features, store))
        mine = share_of(cells, config.share)
        missing = [cell for cell in mine if not store.has(cell.name)]
        if missing:
            paused = _Seldom(refresh, _REFRESHED_EVERY)
            run = GridRun(config, mine, missing, parts, weights, features, judged, paused=paused)
            try:
                _run_missing(run, store, names)
            except DivergedError:  # of some cells; the others may be looked at
                store.write_tables(names)
                raise
        if config.share.index == 0 and not (config.workdir / REFERENCES).exists():
            with session(checkpoint=checkpoint_of(config, "reference")):
                store.write_csv(REFERENCES, reference_rows(config, parts))
    # What is left belongs to groups of another number of devices, or of a run killed at its end.
    shutil.rmtree(checkpoint_folder(config), ignore_errors=True)
    if not (config.workdir / TEST_PICTURES).exists():
        store.save_test_pictures(attacked_pictures(parts))
    # Of several processes, the last one to come here finds everything.
    results = store.write_tables(names)
    write_risk_tables(store, results, config.mode)
    complete = len(results) == len(cells) and (config.workdir / REFERENCES).exists()
    return Characterisation(results, complete, store, examples)


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


def _run_missing(run: GridRun, store: ResultStore, names: Sequence[str]) -> None:
    """Measures cells by the mode asked for, and keeps each as soon as it is there."""
    config, share = run.config, run.config.share
    measure, distance = estimated_measurements, None
    if config.mode == DEDICATED:  # the distance would double the time of an estimated cell
        measure = dedicated_measurements
        judged = run.examples[: images_for(config.image_size)]
        distance = perceptual_distance(run.weights, run.parts.test.images[judged])
    whose = f" the share of process {share.index}" if share.count > 1 else ""
    done = len(run.mine) - len(run.missing)
    write_tables = _Seldom(lambda: store.write_tables(names), _TABLES_EVERY)
    run.features()  # which has a bar of its own, and would count as time of the first cells
    with progress_bar(len(run.mine), "characterising" + whose, "cells", done) as progress:
        for measurement in measure(dataclasses.replace(run, progress=progress)):
            result = _result(measurement, config.image_size)
            arrays = _arrays(measurement, config.examples)
            if distance is not None:
                rebuilt = measurement.examples[result.strongest.attacker]
                arrays[PERCEPTUAL] = distance(rebuilt[: len(judged)])
            store.save(result, arrays)
            write_tables()


def _result(measurement: Measurement, image_size: int) -> CellResult:
    topology = measurement.cell.topology
    cost = local_cost(topology, image_size)
    return CellResult(
        name=measurement.cell.name,
        num_layers=topology.num_layers,
        layer=topology.layer.name,
        depth=topology.depth,
        selection=measurement.cell.selection,
        draw=measurement.cell.draw,
        channels=topology.channels,
        **accuracy_columns(measurement.accuracy, measurement.labels),
        attacks=tuple(
            AttackResult.of_images(name, by_part, measurement.reports[name])
            for name, by_part in measurement.attacks.items()
        ),
        cost={
            "local_macs": cost.macs,
            "local_param_bytes": cost.param_bytes,
            "local_activation_bytes": cost.peak_activation_bytes,
            "release_bytes": cost.release_bytes,
        },
        environment=environment(),
        train_seconds=measurement.seconds,
        backbone=topology.backbone,
    )


def _arrays(measurement: Measurement, examples: int) -> dict[str, np.ndarray]:
    """The arrays kept beside a cell's result: test images' metrics, and example estimates."""
    arrays = {"accuracy": measurement.accuracy["test"]}
    for name, by_part in measurement.attacks.items():
        for metric, values in by_part["test"].items():
            arrays[f"{name}_{metric}"] = values
    for name, estimates in measurement.examples.items():
        arrays[f"{name}_examples"] = estimates[:examples]
    return arrays
