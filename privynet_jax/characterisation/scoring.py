"""Estimates of a grid's cells without training any of them: by amortised networks, or linearly.

The same measurements as `dedicated` yields, a hundred times as fast and not as good:
experiments/RESULTS.md says how well they rank and predict dedicated ones. A layer costs the
training of two networks (`amortised`) or, in linear mode, nothing but sums; a cell costs one
evaluation on a sample of images, the same for all cells.

    tasks = amortised.layer_tasks(cloud_nn(30), attacker(), cloud_schedule, attacker_schedule)
    for measurement in amortised_measurements(cells, missing, features, parts, tasks, ...):
        ...  # as soon as its group of cells is scored
"""

import dataclasses
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation.dedicated import REPORTED
from privynet_jax.estimates import layer_networks
from privynet_jax.estimates.amortised import Shardings
from privynet_jax.estimates.linear_probe import pool_part, probe_scores
from privynet_jax.estimates.subsets import (
    LayerSums,
    Subset,
    layer_sums,
    linear_estimates,
    prepare,
    stacked,
)
from privynet_jax.images.metrics import correct
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.results.cells import Cell, by_layer
from privynet_jax.results.measurement import Measurement
from privynet_jax.training import tasks as training
from privynet_jax.training.group import Progress
from privynet_jax.training.tasks import CLOUD, LINEAR, Task

AMORTISED = "amortised"
# What an attacker has besides the representations under attack: the imputation knows how released
# channels vary together with the others.
ALL_CHANNELS = "pairs, all channels"

# Stacked subsets on the devices -> a `Measurement`'s fields with a leading axis.
_Score = Callable[[Subset], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How cells are scored.

    Attributes:
        shardings: of cells and of what every device holds; see `devices.data_parallel`.
        at_once: cells scored side by side, a multiple of the devices.
        images: of each of the parts validation and test, spread over classes; attackers, whose
            numbers vary less from image to image, are scored on the first half of them.
        examples: test images, the first of those, whose reconstructions are kept.
    """

    shardings: Shardings
    at_once: int
    images: int
    examples: int


def amortised_measurements(
    cells: Sequence[Cell],
    missing: Sequence[Cell],
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    tasks: tuple[Task, Task],
    scoring: Scoring,
    folder: Path,
    *,
    seed: int,
    progress: Progress = lambda share: None,
) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, scored by amortised networks, layers ascending.

    Args:
        cells: the whole grid, whose depths decide which subsets the networks are trained on.
        missing: the cells to do.
        features: layer -> features with all of the layer's channels.
        parts: the images and labels that the features were computed from.
        tasks: the networks' tasks; see `amortised.cloud_task` and `attacker_task`.
        scoring: how cells are scored.
        folder: where networks are kept; those that it holds are not trained again.
        seed: of the grid; each layer derives its own key.
        progress: told about finished cells; training a layer's networks counts as none.

    Raises:
        UserError: training diverged, or stored networks are damaged.
    """
    depths = [cell.topology.depth for cell in cells]
    score_labels = jax.jit(_label_scorer(tasks[0]))
    score_images = jax.jit(_image_scorer(tasks[1], scoring.examples))
    for num_layers, mine in by_layer(missing):
        layer = features[num_layers]
        sums = layer_sums(layer, parts, max(depths))
        networks = layer_networks.trained(
            layer, sums, parts, layer_networks.by_name(tasks), depths, folder, seed
        )
        networks = jax.device_put(networks, scoring.shardings[1])
        samples = _samples(layer, parts, scoring)

        def score(
            subsets: Subset, networks: Any = networks, samples: Any = samples
        ) -> dict[str, Any]:
            right = {
                part: score_labels(networks[CLOUD], subsets, *sample["labelled"])
                for part, sample in samples.items()
            }
            attacked = {
                part: score_images(networks[layer_networks.ATTACKER], subsets, *sample["attacked"])
                for part, sample in samples.items()
            }
            return {"accuracy": right, **_by_attacker(attacked)}

        yield from _measurements(mine, layer, sums, score, scoring, max(depths), progress)


def linear_measurements(
    cells: Sequence[Cell],
    missing: Sequence[Cell],
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    scoring: Scoring,
    progress: Progress = lambda share: None,
) -> Iterator[Measurement]:
    """Yields a measurement per missing cell by a linear probe and the linear attack alone.

    Arguments are those of `amortised_measurements`. Accuracy is taken over all images of a part.
    """
    width = max(cell.topology.depth for cell in cells)
    score_images = jax.jit(_image_scorer(None, scoring.examples))
    score_probe = jax.jit(jax.vmap(_probe_correct, in_axes=(0, None, None)))
    for num_layers, mine in by_layer(missing):
        layer = features[num_layers]
        sums = layer_sums(layer, parts, width)
        samples = _samples(layer, parts, scoring)
        numbers = {
            part: jax.device_put(
                (pool_part(layer, part), getattr(parts, part).labels), scoring.shardings[1]
            )
            for part in REPORTED
        }

        def score(
            subsets: Subset, samples: Any = samples, numbers: Any = numbers
        ) -> dict[str, Any]:
            attacked = {
                part: score_images({}, subsets, *sample["attacked"])
                for part, sample in samples.items()
            }
            right = {part: score_probe(subsets, *numbers[part]) for part in REPORTED}
            return {"accuracy": right, **_by_attacker(attacked)}

        yield from _measurements(mine, layer, sums, score, scoring, width, progress)


def _samples(
    layer: LayerFeatures, parts: Parts, scoring: Scoring
) -> dict[str, dict[str, tuple[jax.Array, jax.Array]]]:
    """Part -> "labelled" and "attacked" -> representations, and labels or images, on devices."""
    samples = {}
    for name in REPORTED:
        part = getattr(parts, name)
        rows = spread_over_classes(part.labels, scoring.images)
        attacked = rows[: max(scoring.examples, scoring.images // 2)]
        samples[name] = jax.device_put(
            {
                "labelled": (np.float32(layer.parts[name][rows]), part.labels[rows]),
                "attacked": (np.float32(layer.parts[name][attacked]), part.images[attacked]),
            },
            scoring.shardings[1],
        )
    return samples


def _measurements(
    cells: Sequence[Cell],
    layer: LayerFeatures,
    sums: LayerSums,
    score: _Score,
    scoring: Scoring,
    width: int,
    progress: Progress,
) -> Iterator[Measurement]:
    """Scores the cells of a layer, group by group; a group is filled up with its last cell."""
    for start in range(0, len(cells), scoring.at_once):
        begun = time.perf_counter()
        group = cells[start : start + scoring.at_once]
        subsets = [prepare(sums, layer.positions(cell.topology.channels), width) for cell in group]
        filled = stacked([*subsets, *subsets[-1:] * (scoring.at_once - len(group))])
        fields = jax.device_get(score(jax.device_put(filled, scoring.shardings[0])))
        seconds = (time.perf_counter() - begun) / len(group)
        for index, cell in enumerate(group):
            mine = jax.tree.map(operator.itemgetter(index), fields)
            progress(1)
            yield Measurement(cell=cell, seconds=seconds, **mine)


def _probe_correct(subset: Subset, numbers: jax.Array, labels: jax.Array) -> jax.Array:
    """Subset, pooled numbers [N, 6, C] and labels -> float32 [N] of 0 and 1, by the probe alone."""
    released = jnp.take(numbers, subset.imputation.positions, axis=-1)
    return correct(probe_scores(subset.probe, released), labels)


def _label_scorer(task: Task) -> Callable[..., jax.Array]:
    """(params, stacked subsets, representations, labels) -> float32 [cells, N] of 0 and 1."""

    def of_one(params: Any, subset: Subset, x: jax.Array, labels: jax.Array) -> jax.Array:
        return training.evaluate(task, params, subset, x, labels)["accuracy"]

    return jax.vmap(of_one, in_axes=(None, 0, None, None))


def _image_scorer(task: Task | None, examples: int) -> Callable[..., dict[str, Any]]:
    """(params, stacked subsets, representations, images) -> attacker -> its metrics, examples.

    Without a task that is the linear attacker alone.
    """

    def of_one(params: Any, subset: Subset, x: jax.Array, images: jax.Array) -> dict[str, Any]:
        estimates = {LINEAR: jnp.clip(linear_estimates(subset, x), 0, 1)}
        if task is not None:
            estimates[AMORTISED] = training.predict(task, params, subset, x)
        truth = images.astype(jnp.float32) / 255
        return {
            name: (
                training.image_quality(estimate, truth),
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
