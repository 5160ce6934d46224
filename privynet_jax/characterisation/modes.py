"""Which room measures a grid's cells, by the mode asked for, and what features that takes.

`characterisation` calls; `grid` trains networks per cell, `scoring` per layer or not at all,
`fine_tuning` is in between.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.characterisation import dedicated, fine_tuning, scoring
from privynet_jax.characterisation.config import DEDICATED, LINEAR, Config
from privynet_jax.estimates import amortised
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import Execution, data_parallel
from privynet_jax.results.cells import Cell
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.attackers import STRONG
from privynet_jax.training.checkpoints import Checkpoints
from privynet_jax.training.group import Progress
from privynet_jax.training.networks import attacker, cloud_nn


def settings_of(config: Config, parts: Parts) -> dedicated.Settings:
    """Returns the networks and schedules that a configuration asks for.

    Mode linear trains no attacker, but what measures further, on its cells, is to train the usual.
    """
    size, dtype = parts.image_size, config.compute_dtype
    return dedicated.Settings(
        cloud=cloud_nn(parts.num_classes, size, config.cloud_width, dtype),
        attacker=attacker(size, config.attacker_width, config.attacker_blocks, dtype),
        cloud_schedule=config.cloud,
        attacker_schedule=config.attacker,
        attackers=config.trained_attackers or (STRONG,),
    )


def cached_channels(
    mode: str, selections: Collection[str], topologies: Sequence[Topology]
) -> dict[int, tuple[int, ...]]:
    """Returns layer -> channels whose features are needed.

    That is all of them where subsets are estimated, be it to score cells or to choose channels.

    Args:
        mode: one of `config.MODES`.
        selections: how the channels of the grid's draws are found.
        topologies: of all its cells.
    """
    if mode == DEDICATED and set(selections) == {RANDOM}:
        return needed_channels(topologies)
    layers = sorted({(topology.num_layers, topology.layer.channels) for topology in topologies})
    return {m: tuple(range(channels)) for m, channels in layers}


def measurements(
    config: Config,
    cells: Sequence[Cell],
    mine: Sequence[Cell],
    missing: Sequence[Cell],
    store: ResultStore,
    features: Mapping[int, LayerFeatures],
    parts: Parts,
    execution: Execution,
    shown: np.ndarray,
    progress: Progress,
    checkpoints: Checkpoints,
) -> Iterator[Measurement]:
    """Returns the measurements of the missing cells; arguments are those of `grid.characterise`."""
    settings, common = settings_of(config, parts), (cells, missing, features, parts)
    if config.mode == DEDICATED:
        return dedicated.characterise(
            cells,
            mine,
            missing,
            features,
            parts,
            settings,
            execution,
            seed=config.seed,
            examples=shown,
            progress=progress,
            checkpoints=checkpoints,
        )
    shardings = data_parallel()
    at_once = len(shardings[0].device_set) * execution.cells_per_device
    how = scoring.Scoring(shardings, at_once, config.scoring_images, config.examples)
    if config.mode == LINEAR:
        return scoring.linear_measurements(*common, how, progress)
    tasks = amortised.layer_tasks(settings.cloud, settings.attacker, config.cloud, config.attacker)
    common = (*common, tasks, how, store.workdir / "networks")
    if not config.fine_tuning_steps:
        return scoring.amortised_measurements(*common, seed=config.seed, progress=progress)
    return fine_tuning.fine_tuned_measurements(
        *common, config.fine_tuning_steps, execution, seed=config.seed, progress=progress
    )
