"""Estimates of cells by amortised networks that were trained further on each cell's own subset.

Between `scoring`, which trains nothing per cell, and `grid`, which trains everything: a copy of the
layer's networks takes some more steps, with `grid`'s groups of cells and its mini-batches.

    for measurement in fine_tuned_measurements(cells, missing, features, parts, tasks, ...):
        ...  # as soon as its group of cells is done
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation import dedicated
from privynet_jax.characterisation.scoring import Scoring
from privynet_jax.estimates import layer_networks
from privynet_jax.estimates.subsets import LayerSums, Subset, layer_sums, linear_estimates, prepare
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Part, Parts
from privynet_jax.platform.devices import Execution
from privynet_jax.results.cells import Cell, by_layer, training_key
from privynet_jax.results.measurement import Measurement
from privynet_jax.training import tasks as training
from privynet_jax.training.group import Member, Progress
from privynet_jax.training.inputs import LayerInputs
from privynet_jax.training.mapping import MappedTask
from privynet_jax.training.tasks import CLOUD, Task

FINE_TUNED = "fine-tuned"
# Of the learning rate that trained the layer's networks.
_RATE = 0.3


def fine_tuned_measurements(
    cells: Sequence[Cell],
    missing: Sequence[Cell],
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    tasks: tuple[Task, Task],
    scoring: Scoring,
    folder: Path,
    steps: int,
    execution: Execution,
    *,
    seed: int,
    progress: Progress = lambda share: None,
) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Args:
        cells: as for `scoring.amortised_measurements`; likewise the others that are not named here.
        missing: the cells to do.
        features: layer -> features with all of the layer's channels.
        parts: the images and labels that the features were computed from.
        tasks: the tasks of the layer's networks.
        scoring: how cells are scored.
        folder: where the layer's networks are kept.
        steps: by which each cell's copies are trained further.
        execution: how cells are spread over the devices.
        seed: of the grid; each cell derives its own key.
        progress: told about finished steps.
    """
    width = max(cell.topology.depth for cell in cells)
    depths = [cell.topology.depth for cell in cells]
    for num_layers, mine in by_layer(missing):
        layer = features[num_layers]
        sums = layer_sums(layer, parts, width)
        networks = layer_networks.trained(
            layer, sums, parts, layer_networks.by_name(tasks), depths, folder, seed
        )
        of_layer = _tasks(tasks, steps, networks)
        yield from dedicated.layer_measurements(
            mine,
            mine,
            functools.partial(_member, layer=layer, sums=sums, width=width, seed=seed),
            functools.partial(LayerInputs, *_sampled(layer, parts, scoring.images), width),
            functools.partial(_mapped, of_layer),
            execution,
            np.arange(scoring.examples),
            progress,
        )


def _mapped(tasks: Sequence[Task], execution: Execution) -> list[MappedTask]:
    return [MappedTask(task, execution) for task in tasks]


def _tasks(tasks: tuple[Task, Task], steps: int, networks: Mapping[str, Any]) -> list[Task]:
    cloud, attacker = tasks
    tuned = continued(attacker, networks[layer_networks.ATTACKER], steps)
    return [
        continued(cloud, networks[CLOUD], steps),
        dataclasses.replace(
            training.linear_task(),
            predict=lambda _, subset, x: linear_estimates(subset, x),
        ),
        dataclasses.replace(tuned, name=FINE_TUNED),
    ]


def continued(task: Task, params: Any, steps: int) -> Task:
    """Returns a task that trains given params further.

    What it trains is the difference to them, zero at first. So the start, equal in all cells of a
    layer, is a constant, and weight decay pulls towards it instead of towards zero.
    """
    if task.schedule is None:
        raise ValueError("Expected a task with a schedule, got one that is not trained.")
    schedule = dataclasses.replace(
        task.schedule, steps=steps, learning_rate=_RATE * task.schedule.learning_rate
    )

    def init(key: jax.Array, x: jax.Array) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def predict(difference: Any, subset: Subset, x: jax.Array) -> jax.Array:
        return task.predict(jax.tree.map(jnp.add, params, difference), subset, x)

    return dataclasses.replace(task, init=init, predict=predict, schedule=schedule)


def _member(cell: Cell, layer: LayerFeatures, sums: LayerSums, width: int, seed: int) -> Member:
    positions = layer.positions(cell.topology.channels)
    subset = prepare(sums, positions, width)
    # A group hands over the released channels alone, in order and padded.
    own = subset.imputation._replace(positions=np.arange(width, dtype=np.int32))
    return Member(positions, training_key(cell, seed), subset._replace(imputation=own))


def _sampled(layer: LayerFeatures, parts: Parts, count: int) -> tuple[LayerFeatures, Parts]:
    """Returns both with validation and test cut to the images on which cells are scored."""
    stored: dict[str, np.ndarray] = dict(layer.parts)
    cut: dict[str, Part] = {}
    for name in dedicated.REPORTED:
        part = getattr(parts, name)
        rows = spread_over_classes(part.labels, count)
        stored[name] = layer.parts[name][rows]
        cut[name] = Part(part.images[rows], part.labels[rows])
    return dataclasses.replace(layer, parts=stored), dataclasses.replace(parts, **cut)
