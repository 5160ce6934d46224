"""A finished characterisation and what it was made of, for further measurements on its cells.

found = reopen(Path("runs/first"), weights="embedded", cache_dir="cache")
scene = found.scenario(found.results[0])  # the data of one cell's topology, to be attacked
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import cached_channels, under_mechanism
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell
from privynet_jax.results.work_directory import ResultStore


@dataclasses.dataclass(frozen=True, eq=False)
class Reopened:
    """A finished characterisation.

    Settings are what `config.json` says, and `config` is made of them; results are of all cells, by
    layers, depth, selection and draw. Images, weights and features (by number of layers) are those
    that it was measured with.
    """

    store: ResultStore
    settings: Mapping[str, Any]
    config: Config
    results: list[CellResult]
    parts: Parts
    weights: PretrainedWeights
    features: Callable[[int], LayerFeatures]

    def scenario(self, result: CellResult, examples: int = 0) -> Scenario:
        """Returns the data of a cell's topology, filled up to the width that the grid had.

        Attackers are to be trained on so many examples; see `under_mechanism`.
        """
        features, width = self.features(result.num_layers), max(self.settings["depths"])
        scene = Scenario(result.topology, self.parts, features, self.weights, width)
        cell = Cell(result.topology, result.draw, result.selection)
        return under_mechanism(scene, self.config, cell, examples=examples)


def reopen(
    workdir: Path,
    *,
    weights: str,
    cache_dir: os.PathLike[str] | str,
    data_dir: Path | str | None = None,
    skip_unreadable: bool = False,
    reading: Reading = AS_FILES_SAY,
) -> Reopened:
    """Opens a finished characterisation, with its images and weights.

    Where these come from, and how images are decoded, is said as in `Config`.

    Raises:
        UserError: cells are missing, or images or weights are others than those it was made with.
    """
    store, settings = ResultStore.existing(workdir)
    results = store.grid_results(settings)
    places = {"cache_dir": cache_dir, "data_dir": data_dir}
    config = Config.of_settings(settings, workdir, skip_unreadable=skip_unreadable, **places)
    config = config.reading_as(reading)
    found = matching_weights(weights, settings, workdir, config.local_cache)
    parts = config.load_parts()
    if parts.fingerprint != settings["data_fingerprint"]:
        raise UserError(
            f"{settings['dataset']} has other images now than {workdir} was measured on; restore "
            "them, or characterise again in a new folder"
        )
    channels = cached_channels(config, [result.topology for result in results])

    @functools.lru_cache(maxsize=1)  # one layer's may be all that fits into memory
    def features(number: int) -> LayerFeatures:
        union, dtype = {number: channels[number]}, config.feature_dtype
        return load_features(found, parts, union, config.feature_cache, dtype=dtype)[number]

    return Reopened(store, settings, config, results, parts, found, features)


def matching_weights(
    source: str, settings: Mapping[str, Any], workdir: Path, cache_dir: Path
) -> PretrainedWeights:
    """Returns weights, which must be those that a characterisation was made with.

    Raises:
        UserError: they are others, or cannot be had.
    """
    weights = load_weights(source, cache_dir=cache_dir, backbone=settings["backbone"])
    if weights.fingerprint != settings["weights_fingerprint"]:
        raise UserError(
            f"{workdir} was characterised with other weights than {source}; give --weights the "
            "ones that it was made with"
        )
    return weights
