"""Who measures a grid's missing cells: this process's devices, or the workers of a cluster.

On a cluster, images, weights and settings travel to every machine once; features are extracted
there, of the layers that its workers are given, into its own cache. Rows come back to whoever asked
for them, so no folder is shared.

    executor = executor_for(run, channels, most, hire)
    for result, arrays in executor.rows(run):
        store.save(result, arrays)
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation.candidates import Found, Place, searched_channels
from privynet_jax.characterisation.grid_run import (
    GridRun,
    checkpoint_of,
    dedicated_measurements,
    group_measurements,
)
from privynet_jax.characterisation.groups import Group, cell_groups
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.characterisation.references import reference_rows
from privynet_jax.characterisation.scoring import estimated_measurements
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.platform.cluster import Cluster
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.results.cell_rows import Row, cell_row
from privynet_jax.results.cells import Cell, Measurement, by_layer
from privynet_jax.training.session import current_session, session


def executor_for(
    run: GridRun,
    channels: Mapping[int, Sequence[int]],
    most: int,
    hire: Callable[..., Cluster] | None,
) -> "Executor":
    """Returns who measures the cells of a grid, of which none is known yet.

    Args:
        run: a run without cells.
        channels: layer -> the channels whose features are needed.
        most: cells that are ever trained side by side.
        hire: what `cluster.joined` yields; None: this process measures them.
    """
    if hire is None:
        return LocalExecutor(run)
    return ClusterExecutor(hire(_portable(run, channels), most))


@dataclasses.dataclass(frozen=True)
class LocalExecutor:
    """The devices of this process."""

    run: GridRun

    def prepare(self) -> None:
        """Loads the features, which has a bar of its own, and would count as the first cells'."""
        self.run.features()

    def searched(self, places: Sequence[Place]) -> Iterator[Found]:
        """Yields `searched_channels`."""
        run = self.run
        return searched_channels(places, run.config, run.parts, run.features)

    def rows(self, run: GridRun) -> Iterator[Row]:
        """Yields what is kept of each missing cell; raises what `dedicated_measurements` does."""
        is_dedicated = run.config.mode == DEDICATED
        measured = (dedicated_measurements if is_dedicated else estimated_measurements)(run)
        return (_row_of(run, measurement) for measurement in measured)

    def references(self) -> list[dict[str, Any]]:
        """Returns `reference_rows`."""
        with session(checkpoint=checkpoint_of(self.run.config, "reference")):
            return reference_rows(self.run.config, self.run.parts)


@dataclasses.dataclass(frozen=True)
class ClusterExecutor:
    """The workers of a cluster, each of which has a run without cells."""

    cluster: Cluster

    def prepare(self) -> None:
        """Leaves that to the workers."""

    def searched(self, places: Sequence[Place]) -> Iterator[Found]:
        """Yields what workers found, a layer each."""
        units = [
            functools.partial(_searched, places=[place for place in places if place[1] == number])
            for number in sorted({number for _, number, _ in places})
        ]
        for _, found in self.cluster.answers(units):
            yield from found

    def rows(self, run: GridRun) -> Iterator[Row]:
        """Yields what is kept of each missing cell, group by group, as they come back.

        The first round comes first; then a worker stays with a layer where it can. In the modes
        without training per cell, a layer is one piece of work.
        """
        groups, missing = self._groups(run), set(run.missing)
        units = [
            functools.partial(_measured, group=g, missing=[c for c in g.cells if c in missing])
            for g in groups
        ]
        early = sum(group.round == groups[0].round for group in groups)
        first_round, left = set(units[:early]), len(units)
        found = self.cluster.answers(units, early, lambda unit: unit.keywords["group"].num_layers)
        with everything_first() as postponed:
            for unit, rows in found:
                for row in rows:
                    with postponed():
                        if isinstance(row, DivergedError):
                            raise row
                        yield row
                current_session().give_way()
                run.progress(len(unit.keywords["missing"]))
                left -= 1
                if left:
                    run.paused(first_round == {unit})
                first_round.discard(unit)

    def references(self) -> list[dict[str, Any]]:
        """Returns `reference_rows` of a worker."""
        [(_, rows)] = self.cluster.answers([_references])
        return rows

    def _groups(self, run: GridRun) -> list[Group]:
        if run.config.mode != DEDICATED:
            return [Group(tuple(of_layer)) for _, of_layer in by_layer(run.missing)]
        [(_, groups)] = self.cluster.answers([functools.partial(_cut, cells=run.cells)])
        missing = set(run.missing)
        return [group for group in groups if missing.intersection(group.cells)]


# Does what takes time in a characterisation.
Executor = LocalExecutor | ClusterExecutor


def _row_of(run: GridRun, measurement: Measurement) -> Row:
    """What is kept of a measurement."""
    return cell_row(measurement, run.parts.test, run.config.mode, run.config.examples)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerByLayer:
    """The features of layers, each loaded, or extracted, when it is looked up."""

    run: GridRun
    channels: Mapping[int, Sequence[int]]

    def __call__(self) -> "LayerByLayer":
        """Returns itself, as a run asks for its features."""
        return self

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a worker has one of these, for its whole life
    def __getitem__(self, number: int) -> LayerFeatures:
        """Returns a layer's features."""
        run, channels = self.run, {number: self.channels[number]}
        where, dtype = run.config.feature_cache, run.config.feature_dtype
        found = load_features(run.weights, run.parts, channels, where, dtype=dtype, in_company=True)
        return found[number]


def _portable(run: GridRun, channels: Mapping[int, Sequence[int]]) -> Callable[[], GridRun]:
    """What travels: it makes a worker's run, without features."""
    images = {
        # What is mapped from a file would be read twice to be sent.
        name: dataclasses.replace(part, images=np.asarray(part.images))
        for name, part in run.parts.items()
    }
    parts = dataclasses.replace(run.parts, **images)
    travels = GridRun(run.config, (), (), parts, run.weights, dict, run.examples)
    return functools.partial(_arrived, travels, channels)


# What workers do with it.


def _arrived(run: GridRun, channels: Mapping[int, Sequence[int]]) -> GridRun:
    """A run on a machine whose own cache has features by layer, and trainings in progress."""
    name = sha256_of_json(run.config.deciding(run.parts, run.weights))[:16]
    workdir = run.config.local_cache / "workers" / name
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, workdir=workdir))
    return dataclasses.replace(run, features=LayerByLayer(run, channels))


def _cut(run: GridRun, cells: Sequence[Cell]) -> tuple[Group, ...]:
    """How cells are grouped on a worker's devices."""
    return cell_groups(cells, run.config.attacker.batch_size, run.config.spread)


def _measured(run: GridRun, group: Group, missing: Sequence[Cell]) -> list[Row | DivergedError]:
    """The rows of a group's missing cells, and how the others diverged."""
    rows: list[Row | DivergedError] = []
    if run.config.mode == DEDICATED:
        found = group_measurements(run, group, set(missing))
    else:
        found = estimated_measurements(dataclasses.replace(run, missing=missing))
    with session(spread=run.config.spread):
        try:
            for measurement in found:
                rows.append(_row_of(run, measurement))
        except DivergedError as error:
            rows.append(error)
    return rows


def _references(run: GridRun) -> list[dict[str, Any]]:
    with session(spread=run.config.spread):
        return reference_rows(run.config, run.parts)


def _searched(run: GridRun, places: Sequence[Place]) -> list[Found]:
    with session(spread=run.config.spread):
        return list(searched_channels(places, run.config, run.parts, run.features))
