"""Modes amortised and linear: estimates of a grid's cells without training any of them.

The same measurements as the mode dedicated yields, a hundred times as fast and not as good:
experiments/RESULTS.md says how well they rank and predict dedicated ones. A layer costs the
training of two networks (`amortised`) or, in mode linear, nothing but sums; a cell costs one
evaluation on a sample of images, the same for all cells.

    for measurement in amortised_measurements(run):
        ...  # as soon as its group of cells is scored
"""

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
from privynet_jax.characterisation.grid_run import GridRun, checkpoint_folder, cloud_of, spread_of
from privynet_jax.characterisation.measure import REPORTED
from privynet_jax.estimates.amortised import AMORTISED, layer_tasks
from privynet_jax.estimates.layer_networks import ATTACKER, LayerData, trained_networks
from privynet_jax.estimates.linear_probe import pool_part, probe_scores
from privynet_jax.estimates.subsets import Subset, layer_sums, linear_estimates, prepare, stacked
from privynet_jax.images.metrics import correct, image_quality
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import data_parallel
from privynet_jax.results.cells import Cell
from privynet_jax.results.measurement import Measurement
from privynet_jax.training.checkpoints import Checkpoint
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

# Stacked subsets on the devices -> a `Measurement`'s fields with a leading axis.
_Score = Callable[[Subset], dict[str, Any]]


def amortised_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, scored by amortised networks, layers ascending.

    Training a layer's networks counts as no progress.

    Raises:
        UserError: training diverged.
    """
    config, everywhere = run.config, data_parallel()[1]
    learnt = layer_training(config, run.parts)
    score_labels = jax.jit(_label_scorer(learnt[CLOUD][0]))
    score_images = jax.jit(_image_scorer(learnt[ATTACKER][0], config.examples))
    for number, cells in run.layers():
        data = _layer_data(run, number)
        # Not open while cells are yielded: whoever takes them has a session of its own.
        with session(spread=spread_of(config), checkpoint=amortised_checkpoint(config, data.layer)):
            networks = trained_networks(
                data, learnt, run.depths, config.workdir / "networks", config.seed
            )
        networks = jax.device_put(networks, everywhere)
        samples = _samples(data.layer, run.parts, config)

        def score(
            subsets: Subset, networks: Any = networks, samples: Any = samples
        ) -> dict[str, Any]:
            right = {
                part: score_labels(networks[CLOUD], subsets, *sample["labelled"])
                for part, sample in samples.items()
            }
            attacked = {
                part: score_images(networks[ATTACKER], subsets, *sample["attacked"])
                for part, sample in samples.items()
            }
            return {"accuracy": right, **_by_attacker(attacked)}

        yield from _measurements(run, cells, data, score)


def linear_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell by a linear probe and the linear attack alone.

    Accuracy is taken over all images of a part.
    """
    everywhere = data_parallel()[1]
    score_images = jax.jit(_image_scorer(None, run.config.examples))
    score_probe = jax.jit(jax.vmap(_probe_correct, in_axes=(0, None, None)))
    for number, cells in run.layers():
        data = _layer_data(run, number)
        samples = _samples(data.layer, run.parts, run.config)
        numbers = {
            part: jax.device_put(
                (pool_part(data.layer, part), getattr(run.parts, part).labels), everywhere
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

        yield from _measurements(run, cells, data, score)


def layer_training(config: Config, parts: Parts) -> dict[str, tuple[Task, Schedule]]:
    """Returns what a layer's two amortised networks learn, and how long, by name."""
    residual = capacities_of_size(config.attacker_width, config.attacker_blocks)[RESIDUAL]
    tasks = layer_tasks(cloud_of(config, parts), residual.network(parts.image_size))
    rate = config.attacker.learning_rate or CAPACITIES[RESIDUAL].learning_rate
    attacker = Schedule(config.attacker.steps, config.attacker.batch_size, rate)
    return {CLOUD: (tasks[0], config.cloud), ATTACKER: (tasks[1], attacker)}


def amortised_checkpoint(config: Config, layer: LayerFeatures) -> Checkpoint:
    """Returns where a layer's networks are kept while they train."""
    folder = checkpoint_folder(config) / f"layer_{layer.num_layers:02d}"
    return Checkpoint(folder, 60 * config.checkpoint_minutes)


def _layer_data(run: GridRun, number: int) -> LayerData:
    layer = run.features()[number]
    return LayerData(layer, layer_sums(layer, run.parts, run.width), run.parts)


def _samples(
    layer: LayerFeatures, parts: Parts, config: Config
) -> dict[str, dict[str, tuple[jax.Array, jax.Array]]]:
    """Part -> "labelled" and "attacked" -> representations, and labels or images, on devices."""
    samples, everywhere = {}, data_parallel()[1]
    for name in REPORTED:
        part = getattr(parts, name)
        rows = spread_over_classes(part.labels, config.scoring_images)
        # Attackers, whose numbers vary less from image to image, are scored on the first half.
        attacked = rows[: max(config.examples, config.scoring_images // 2)]
        samples[name] = jax.device_put(
            {
                "labelled": (np.float32(layer.parts[name][rows]), part.labels[rows]),
                "attacked": (np.float32(layer.parts[name][attacked]), part.images[attacked]),
            },
            everywhere,
        )
    return samples


def _measurements(
    run: GridRun, cells: list[Cell], data: LayerData, score: _Score
) -> Iterator[Measurement]:
    """Scores the cells of a layer, group by group; a group is filled up with its last cell."""
    split, _ = data_parallel()
    size, layer = _AT_ONCE * len(split.device_set), data.layer
    for start in range(0, len(cells), size):
        begun = time.perf_counter()
        group = cells[start : start + size]
        subsets = [
            prepare(data.sums, layer.positions(cell.topology.channels), run.width) for cell in group
        ]
        filled = stacked([*subsets, *subsets[-1:] * (size - len(group))])
        fields = jax.device_get(score(jax.device_put(filled, split)))
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
