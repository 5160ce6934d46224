"""Modes amortised and linear: estimates of a grid's cells without training any of them.

The same measurements as the mode dedicated yields, a hundred times as fast and not as good:
experiments/RESULTS.md says how well they rank and predict dedicated ones. A layer costs the
training of two networks (`amortised`) or, in mode linear, nothing but sums; a cell costs one
evaluation on a sample of images, the same for all cells.

    for measurement in estimated_measurements(run):
        ...  # as soon as its group of cells is scored
"""

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import GridRun, checkpoint_of, cloud_of
from privynet_jax.characterisation.measure import REPORTED, piece
from privynet_jax.errors import everything_first
from privynet_jax.estimates.amortised import (
    AMORTISED,
    ATTACKER,
    LayerData,
    layer_tasks,
    trained_networks,
)
from privynet_jax.estimates.linear_probe import THRESHOLD as PROBE_THRESHOLD
from privynet_jax.estimates.linear_probe import pool_rows, probe_scores
from privynet_jax.estimates.subsets import Subset, layer_sums, linear_estimates, prepare, stacked
from privynet_jax.images.metrics import correct, privacy_loss
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform import signals
from privynet_jax.platform.devices import data_parallel
from privynet_jax.results.cells import Cell, Measurement, by_layer
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.session import current_session, session
from privynet_jax.training.steps import outputs_of
from privynet_jax.training.tasks import CLOUD, Schedule, Task

# What an attacker has besides the representations under attack: the imputation knows how released
# channels vary together with the others.
ALL_CHANNELS = "pairs, all channels"
_REPORTS = {LINEAR: {"converged": True}, AMORTISED: {"knowledge": ALL_CHANNELS}}
# Cells that each device scores side by side.
_AT_ONCE = 4
# Training steps that take about as long as scoring a cell: of the usual networks on two CPU cores.
_STEPS = 3

# What a layer's amortised networks learn, and how long, by name; nothing in mode linear.
_Learnt = Mapping[str, tuple[Task, Schedule]]


def layer_training(config: Config, parts: Parts) -> dict[str, tuple[Task, Schedule]]:
    """Returns what a layer's two amortised networks learn, and how long, by name."""
    tasks = layer_tasks(cloud_of(config, parts), parts.target.several is not None)
    rate = config.attacker.learning_rate or CAPACITIES[STRONG].learning_rate
    attacker = Schedule(config.attacker.steps, config.attacker.batch_size, rate)
    return {CLOUD: (tasks[0], config.cloud), ATTACKER: (tasks[1], attacker)}


def layer_data(config: Config, layer: LayerFeatures, parts: Parts) -> LayerData:
    """Returns a layer with the sums that subsets of up to the grid's largest depth take."""
    return LayerData(layer, layer_sums(layer, parts, max(config.depths)), parts)


def layer_networks(config: Config, data: LayerData, learnt: _Learnt) -> dict[str, Any]:
    """Returns params of a layer's networks by name, kept by the work directory or newly trained."""
    folder, name = config.workdir / "networks", f"layer_{data.layer.num_layers:02d}"
    with session(checkpoint=checkpoint_of(config, name)):
        networks = trained_networks(data, learnt, config.depths, folder, config.seed)
    current_session().give_way()
    return networks


def estimated_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell without training it, layers ascending.

    In mode linear, a linear probe's accuracy is taken over all images of a part. A group of cells
    is filled up with its last one.

    Raises:
        DivergedError: training did, of some layers; all others were scored before.
    """
    config = run.config
    learnt = layer_training(config, run.parts) if config.mode == AMORTISED else {}
    tasks = {name: task for name, (task, _) in learnt.items()}
    scorers = (
        jax.jit(_label_scorer(tasks.get(CLOUD))),
        jax.jit(_image_scorer(tasks.get(ATTACKER), config.examples)),
    )
    with everything_first() as postponed:
        for number, cells in by_layer(run.missing):
            with postponed():
                yield from _of_layer(run, learnt, scorers, number, cells)


def _of_layer(
    run: GridRun,
    learnt: _Learnt,
    scorers: tuple[Callable[..., jax.Array], Callable[..., Any]],
    number: int,
    of_layer: Sequence[Cell],
) -> Iterator[Measurement]:
    """Yields the measurements of a layer's cells; scorers are of labels and of images."""
    config, (score_labels, score_images) = run.config, scorers
    # Few pictures rank attackers as well as many do; an accuracy of few is mostly chance.
    pictures = max(config.examples, config.scoring_images // 8)
    split, everywhere = data_parallel()
    size = _AT_ONCE * len(split.device_set)
    data = layer_data(config, run.features()[number], run.parts)
    trained = sum(schedule.steps for _, schedule in learnt.values()) / _STEPS
    trained /= trained + len(of_layer)  # of the layer's work
    share = trained * len(of_layer) / max(1, len(learnt))
    with session(progress=run.progress), piece(len(learnt), share):
        networks = layer_networks(config, data, learnt)
    networks = jax.device_put(networks, everywhere)
    labelled = _samples(data, config.scoring_images, "answers") if learnt else _pooled(data)
    labels = {part: own for part, (_, own) in labelled.items()}
    labelled = jax.device_put(labelled, everywhere)
    pictured = jax.device_put(_samples(data, pictures, "images"), everywhere)
    for start in range(0, len(of_layer), size):
        begun, cells = time.perf_counter(), of_layer[start : start + size]
        subsets = jax.device_put(_subsets(cells, size, data, max(config.depths)), split)
        right = {
            part: score_labels(networks.get(CLOUD), subsets, *own) for part, own in labelled.items()
        }
        attacked = {
            part: score_images(networks.get(ATTACKER), subsets, *own)
            for part, own in pictured.items()
        }
        quality, examples = attacked["test"]
        by_attacker = {
            name: {part: attacked[part][0][name] for part in REPORTED} for name in quality
        }
        found = {"accuracy": right, "attacks": by_attacker, "examples": examples}
        found = jax.device_get(found)
        seconds = (time.perf_counter() - begun) / len(cells)
        with signals.deferred():  # until whoever takes the measurements has saved them
            for index, cell in enumerate(cells):
                own = jax.tree.map(operator.itemgetter(index), found)
                run.progress(1 - trained)
                yield Measurement(cell, **own, seconds=seconds, reports=_REPORTS, labels=labels)
        current_session().give_way()


def _samples(data: LayerData, count: int, of: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """So many representations of each part, with the part's "answers" or "images"."""
    samples = {}
    for name in REPORTED:
        part = getattr(data.parts, name)
        rows = spread_over_classes(part.labels, count)
        samples[name] = np.float32(data.layer.parts[name][rows]), getattr(part, of)[rows]
    return samples


def _pooled(data: LayerData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a probe takes of all representations of each part, with their labels."""
    return {
        name: (pool_rows(data.layer.parts[name]), getattr(data.parts, name).answers)
        for name in REPORTED
    }


def _subsets(cells: Sequence[Cell], size: int, data: LayerData, width: int) -> Subset:
    subsets = [
        prepare(data.sums, data.layer.positions(cell.topology.channels), width) for cell in cells
    ]
    return stacked([*subsets, *subsets[-1:] * (size - len(cells))])


def _label_scorer(task: Task | None) -> Callable[..., jax.Array]:
    """(params, stacked subsets, representations, answers) -> float32 [cells, N] of 0 and 1.

    Of several labels for each image, [cells, N, L].

    Without a task that is the probe alone, which takes pooled numbers [N, 6, C].
    """

    def of_one(params: Any, subset: Subset, x: jax.Array, labels: jax.Array) -> jax.Array:
        if task is not None:
            return correct(outputs_of(task, params, subset, x), labels)
        released = jnp.take(x, subset.imputation.positions, axis=-1)
        scores = probe_scores(subset.probe, released)
        return correct(scores if labels.ndim == 1 else scores - PROBE_THRESHOLD, labels)

    return jax.vmap(of_one, in_axes=(None, 0, None, None))


def _image_scorer(task: Task | None, examples: int) -> Callable[..., Any]:
    """(params, stacked subsets, representations, images) -> metrics and examples, by attacker.

    Without a task that is the linear attacker alone.
    """

    def of_one(params: Any, subset: Subset, x: jax.Array, images: jax.Array) -> Any:
        estimates = {LINEAR: jnp.clip(linear_estimates(subset, x), 0, 1)}
        if task is not None:
            estimates[AMORTISED] = outputs_of(task, params, subset, x)
        truth = images.astype(jnp.float32) / 255
        rebuilt = {
            name: jnp.round(255 * estimate[:examples]).astype(jnp.uint8)
            for name, estimate in estimates.items()
        }
        return {name: privacy_loss(each, truth) for name, each in estimates.items()}, rebuilt

    return jax.vmap(of_one, in_axes=(None, 0, None, None))
