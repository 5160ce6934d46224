"""Modes amortised and linear: estimates of a grid's cells without training any of them.

The same measurements as the mode dedicated yields, a hundred times as fast and not as good:
experiments/RESULTS.md says how well they rank and predict dedicated ones. A layer costs the
training of two networks (`amortised`) or, in mode linear, nothing but sums; a cell costs one
evaluation on a sample of images, the same for all cells.

    for measurement in amortised_measurements(run):
        ...  # as soon as its group of cells is scored
"""

import functools
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import GridRun, checkpoint_of, cloud_of
from privynet_jax.characterisation.measure import REPORTED
from privynet_jax.estimates.amortised import (
    AMORTISED,
    ATTACKER,
    LayerData,
    layer_tasks,
    trained_networks,
)
from privynet_jax.estimates.linear_probe import pool_rows, probe_scores
from privynet_jax.estimates.subsets import Subset, layer_sums, linear_estimates, prepare, stacked
from privynet_jax.images.metrics import correct, image_quality
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import data_parallel
from privynet_jax.results.cells import Cell, Measurement
from privynet_jax.training.models.attackers import CAPACITIES, RESIDUAL, capacities_of_size
from privynet_jax.training.session import session
from privynet_jax.training.steps import outputs_of
from privynet_jax.training.tasks import CLOUD, Schedule, Task

# What an attacker has besides the representations under attack: the imputation knows how released
# channels vary together with the others.
ALL_CHANNELS = "pairs, all channels"
_REPORTS = {LINEAR: {"converged": True}, AMORTISED: {"knowledge": ALL_CHANNELS}}
# Cells that each device scores side by side.
_AT_ONCE = 4

# Part -> representations, or what was pooled of them, and labels or images; on the devices.
_Samples = Mapping[str, tuple[jax.Array, jax.Array]]


def amortised_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, scored by amortised networks, layers ascending.

    Training a layer's networks counts as no progress.

    Raises:
        UserError: training diverged.
    """
    config = run.config
    learnt = layer_training(config, run.parts)
    score_labels = jax.jit(_label_scorer(learnt[CLOUD][0]))
    score_images = jax.jit(_image_scorer(learnt[ATTACKER][0], config.examples))
    for number, cells in run.layers():
        data = _layer_data(run, number)
        networks = layer_networks(config, data, learnt)
        networks = jax.device_put(networks, data_parallel()[1])
        yield from _measurements(
            run,
            cells,
            data,
            functools.partial(score_labels, networks[CLOUD]),
            _samples(data.layer, run.parts, config.scoring_images, "labels"),
            functools.partial(score_images, networks[ATTACKER]),
        )


def linear_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell by a linear probe and the linear attack alone.

    Accuracy is taken over all images of a part.
    """
    score_probe = jax.jit(jax.vmap(_probe_correct, in_axes=(0, None, None)))
    score_images = functools.partial(jax.jit(_image_scorer(None, run.config.examples)), {})
    for number, cells in run.layers():
        data = _layer_data(run, number)
        pooled = {
            part: (pool_rows(data.layer.parts[part]), getattr(run.parts, part).labels)
            for part in REPORTED
        }
        pooled = jax.device_put(pooled, data_parallel()[1])
        yield from _measurements(run, cells, data, score_probe, pooled, score_images)


def layer_training(config: Config, parts: Parts) -> dict[str, tuple[Task, Schedule]]:
    """Returns what a layer's two amortised networks learn, and how long, by name."""
    residual = capacities_of_size(config.attacker_width, config.attacker_blocks)[RESIDUAL]
    tasks = layer_tasks(cloud_of(config, parts), residual.network(parts.image_size))
    rate = config.attacker.learning_rate or CAPACITIES[RESIDUAL].learning_rate
    attacker = Schedule(config.attacker.steps, config.attacker.batch_size, rate)
    return {CLOUD: (tasks[0], config.cloud), ATTACKER: (tasks[1], attacker)}


def layer_networks(
    config: Config, data: LayerData, learnt: Mapping[str, tuple[Task, Schedule]]
) -> dict[str, Any]:
    """Returns params of a layer's networks by name, kept by the work directory or newly trained."""
    name = f"layer_{data.layer.num_layers:02d}"
    with session(checkpoint=checkpoint_of(config, name)):
        return trained_networks(
            data, learnt, config.depths, config.workdir / "networks", config.seed
        )


def _layer_data(run: GridRun, number: int) -> LayerData:
    layer = run.features()[number]
    return LayerData(layer, layer_sums(layer, run.parts, run.width), run.parts)


def _samples(layer: LayerFeatures, parts: Parts, count: int, of: str) -> _Samples:
    """So many representations of each part, with the part's "labels" or "images"."""
    samples = {}
    for name in REPORTED:
        part = getattr(parts, name)
        rows = spread_over_classes(part.labels, count)
        samples[name] = np.float32(layer.parts[name][rows]), getattr(part, of)[rows]
    return jax.device_put(samples, data_parallel()[1])


def _measurements(
    run: GridRun,
    cells: list[Cell],
    data: LayerData,
    score_labels: Callable[..., jax.Array],
    labelled: _Samples,
    score_images: Callable[..., dict[str, Any]],
) -> Iterator[Measurement]:
    """Scores the cells of a layer, group by group; a group is filled up with its last cell.

    Args:
        run: the characterisation.
        cells: of one layer.
        data: the layer's.
        score_labels: (stacked subsets, representations, labels) -> float32 [cells, N] of 0 and 1.
        labelled: what it takes.
        score_images: the same with images; of what `_image_scorer` returns.
    """
    split, config = data_parallel()[0], run.config
    # Attackers, whose numbers vary less from image to image, are scored on the first half.
    count = max(config.examples, config.scoring_images // 2)
    pictured = _samples(data.layer, run.parts, count, "images")
    size = _AT_ONCE * len(split.device_set)
    for start in range(0, len(cells), size):
        begun = time.perf_counter()
        group = cells[start : start + size]
        subsets = [
            prepare(data.sums, data.layer.positions(cell.topology.channels), run.width)
            for cell in group
        ]
        filled = stacked([*subsets, *subsets[-1:] * (size - len(group))])
        filled = jax.device_put(filled, split)
        right = {part: score_labels(filled, *sample) for part, sample in labelled.items()}
        attacked = {part: score_images(filled, *sample) for part, sample in pictured.items()}
        fields = jax.device_get({"accuracy": right, **_by_attacker(attacked)})
        seconds = (time.perf_counter() - begun) / len(group)
        for index, cell in enumerate(group):
            own = jax.tree.map(operator.itemgetter(index), fields)
            run.progress(1)
            yield Measurement(cell=cell, seconds=seconds, reports=_REPORTS, **own)


def _probe_correct(subset: Subset, numbers: jax.Array, labels: jax.Array) -> jax.Array:
    """Subset, pooled numbers [N, 6, C] and labels -> float32 [N] of 0 and 1, by the probe alone."""
    released = jnp.take(numbers, subset.imputation.positions, axis=-1)
    return correct(probe_scores(subset.probe, released), labels)


def _label_scorer(task: Task) -> Callable[..., jax.Array]:
    """(params, stacked subsets, representations, labels) -> float32 [cells, N] of 0 and 1."""

    def of_one(params: Any, subset: Subset, x: jax.Array, labels: jax.Array) -> jax.Array:
        return task.measure(outputs_of(task, params, subset, x), labels)["accuracy"]

    return jax.vmap(of_one, in_axes=(None, 0, None, None))


def _image_scorer(task: Task | None, examples: int) -> Callable[..., dict[str, Any]]:
    """(params, stacked subsets, representations, images) -> attacker -> its metrics, examples.

    Without a task that is the linear attacker alone.
    """

    def of_one(params: Any, subset: Subset, x: jax.Array, images: jax.Array) -> dict[str, Any]:
        estimates = {LINEAR: jnp.clip(linear_estimates(subset, x), 0, 1)}
        if task is not None:
            estimates[AMORTISED] = outputs_of(task, params, subset, x)
        truth = images.astype(jnp.float32) / 255
        return {
            name: (
                image_quality(estimate, truth),
                jnp.round(255 * estimate[:examples]).astype(jnp.uint8),
            )
            for name, estimate in estimates.items()
        }

    return jax.vmap(of_one, in_axes=(None, 0, None, None))


def _by_attacker(attacked: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Part -> attacker -> (metrics, examples) becomes `attacks` and `examples` of measurements."""
    return {
        "attacks": {
            name: {part: attacked[part][name][0] for part in REPORTED} for name in attacked["test"]
        },
        "examples": {name: rebuilt for name, (_, rebuilt) in attacked["test"].items()},
    }
