"""A whole characterisation: from a data set's name to a work directory full of results.

This joins the rooms in their order (data, weights, features, grid, results) and decides nothing
itself. `experiments.characterize` makes a `Config` from flags; a notebook can make its own.

    results = characterise(Config(workdir=Path("runs/first"), layers=(2, 4), depths=(8, 32)))
"""

import collections
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from privynet_jax import grid
from privynet_jax.cache import load_features
from privynet_jax.cells import Cell, grid_cells
from privynet_jax.cost import local_cost
from privynet_jax.data import Parts, load_parts, spread_over_classes
from privynet_jax.errors import UserError
from privynet_jax.execution import Execution, default_execution
from privynet_jax.features import needed_channels
from privynet_jax.files import is_remote
from privynet_jax.group_checkpoints import Checkpoints
from privynet_jax.models import WORKING_STRIDE, attacker, cloud_nn
from privynet_jax.processes import Share, share_of
from privynet_jax.references import reference_rows
from privynet_jax.results import AttackResult, CellResult
from privynet_jax.risk import summarise
from privynet_jax.store import ResultStore
from privynet_jax.topology import CONV_LAYERS
from privynet_jax.training import Schedule
from privynet_jax.weights import PretrainedWeights, check_source, load_weights

_REFERENCE = "reference.csv"
LOCAL_CACHE = Path("~/.cache/privynet_jax")
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} cells [{elapsed}<{remaining}]"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is characterised, and how thoroughly.

    Attributes:
        workdir: folder for results; made when missing.
        dataset: as `data.load_parts` takes it.
        weights: as `weights.load_weights` takes it.
        layers: numbers of local convolution layers, each 1 to 13.
        depths: numbers of released channels.
        draws: random draws of channels per (layers, depth).
        image_size: side of the images in pixels; a multiple of the deepest layer's stride and of 4.
        seed: of the parts, the draws and all training.
        cache_dir: folder for weights and features; or a bucket for features, such as
            gs://bucket/folder: weights are then kept in the default folder.
        data_dir: folder of TFDS data sets; None is TFDS's default.
        max_images: part name -> the most images used of it.
        skip_unreadable: leave out images that cannot be decoded instead of refusing them.
        feature_dtype: how representations are cached: float16, float32 or uint8 (`coding`).
        cloud: schedule of the cloud NN.
        attacker: schedule of the trained attacker.
        cloud_width: channels of the cloud NN.
        attacker_width: channels of the attacker.
        attacker_blocks: residual blocks of the attacker.
        compute_dtype: of the trained networks' arithmetic, "float32" or "bfloat16"; VGG16, the
            linear attack and all metrics are float32 in any case.
        examples: test images whose reconstructions are kept.
        cells_per_device: cells that a device trains at once; 0 lets the backend decide.
        steps_per_dispatch: training steps per dispatch; 0 lets the backend decide.
        device_memory_gib: memory to use of each device; 0 means all that an accelerator has.
        checkpoint_minutes: between two checkpoints of cells in training.
        share: which of the cells are this process's; see `processes.join`.
    """

    workdir: Path
    dataset: str = "photo_patches"
    weights: str = "embedded"
    layers: tuple[int, ...] = (2, 4, 7, 10)
    depths: tuple[int, ...] = (8, 32)
    draws: int = 2
    image_size: int = 32
    seed: int = 0
    cache_dir: Path | str = LOCAL_CACHE
    data_dir: Path | None = None
    max_images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skip_unreadable: bool = False
    feature_dtype: str = "float16"
    cloud: Schedule = Schedule(steps=1000)  # noqa: RUF009 - frozen
    attacker: Schedule = Schedule(steps=2000, batch_size=16, learning_rate=3e-3)  # noqa: RUF009
    cloud_width: int = 64
    attacker_width: int = 64
    attacker_blocks: int = 3
    compute_dtype: str = "float32"
    examples: int = 10
    cells_per_device: int = 0
    steps_per_dispatch: int = 0
    device_memory_gib: float = 0.0
    checkpoint_minutes: float = 5.0
    share: Share = Share()  # noqa: RUF009 - frozen

    def cells(self) -> tuple[Cell, ...]:
        """Returns the grid's cells, or raises UserError where a setting makes no sense."""
        cells = grid_cells(self.layers, self.depths, self.draws, self.seed)
        unit = max(WORKING_STRIDE, CONV_LAYERS[max(self.layers) - 1].stride)
        if self.image_size < 16 or self.image_size % unit:
            raise UserError(
                f"image_size is {self.image_size}; allowed are multiples of {unit} from 16 "
                f"on with {max(self.layers)} layers; give another size or fewer layers"
            )
        return cells

    def deciding(self, parts: Parts, weights: PretrainedWeights) -> dict[str, Any]:
        """Returns the settings that decide the numbers: what `config.json` holds and compares."""
        # Weights count by their fingerprint: the same ones may come from another file or format.
        # Data likewise; what was skipped is not among them.
        places = {"workdir", "cache_dir", "data_dir", "weights", "skip_unreadable"}
        execution = {
            *("cells_per_device", "steps_per_dispatch", "share"),
            *("device_memory_gib", "checkpoint_minutes"),
        }
        settings = dataclasses.asdict(self)
        return {
            **{key: settings[key] for key in settings if key not in places | execution},
            "layers": sorted(self.layers),
            "depths": sorted(self.depths),
            "data_fingerprint": parts.fingerprint,
            "weights_fingerprint": weights.fingerprint,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Characterisation:
    """A characterisation, as far as it is done.

    Attributes:
        results: one per finished cell, in the grid's order.
        complete: whether nothing is missing; else other processes are still at work.
        store: the work directory.
        examples: uint8 [K, H, W, 3], the test images whose reconstructions were kept.
    """

    results: list[CellResult]
    complete: bool
    store: ResultStore
    examples: np.ndarray


def characterise(config: Config) -> Characterisation:
    """Runs what is missing of this process's share and writes tables of all that is done.

    Raises:
        UserError: a setting is wrong, or data, weights or a cache cannot be had.
    """
    cells = config.cells()  # before anything is fetched or written
    check_source(config.weights)
    parts = load_parts(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        seed=config.seed,
        max_images=config.max_images,
        skip_unreadable=config.skip_unreadable,
    )
    weights = load_weights(config.weights, cache_dir=_local_cache(config))
    store = ResultStore.open(config.workdir, config.deciding(parts, weights))
    settings = grid.Settings(
        cloud=cloud_nn(
            parts.num_classes, parts.image_size, config.cloud_width, config.compute_dtype
        ),
        attacker=attacker(
            parts.image_size, config.attacker_width, config.attacker_blocks, config.compute_dtype
        ),
        cloud_schedule=config.cloud,
        attacker_schedule=config.attacker,
    )
    mine = share_of(cells, config.share)
    per_layer = collections.Counter(cell.topology.num_layers for cell in mine)
    execution = default_execution(
        max(per_layer.values(), default=1),
        config.cells_per_device,
        config.steps_per_dispatch,
        config.device_memory_gib,
    )
    shown = spread_over_classes(parts.test.labels, config.examples)
    _run_missing(config, cells, mine, store, weights, parts, settings, execution, shown)
    if config.share.index == 0 and not store.has_table(_REFERENCE):
        store.write_csv(_REFERENCE, reference_rows(parts, settings, execution, config.seed))
    # Of several processes, the last one to come here finds everything.
    results = store.write_tables([cell.name for cell in cells])
    complete = len(results) == len(cells) and store.has_table(_REFERENCE)
    return Characterisation(results, complete, store, parts.test.images[shown])


def _local_cache(config: Config) -> Path:
    remote = is_remote(config.cache_dir)
    return Path(LOCAL_CACHE if remote else config.cache_dir).expanduser()


def _run_missing(
    config: Config,
    cells: Sequence[Cell],
    mine: Sequence[Cell],
    store: ResultStore,
    weights: PretrainedWeights,
    parts: Parts,
    settings: grid.Settings,
    execution: Execution,
    shown: np.ndarray,
) -> None:
    missing = [cell for cell in mine if not store.has(cell.name)]
    if not missing:
        return
    union = needed_channels([cell.topology for cell in cells])
    features = load_features(
        weights,
        parts,
        union,
        config.cache_dir if is_remote(config.cache_dir) else _local_cache(config),
        dtype=config.feature_dtype,
        share=(config.share.index, config.share.count),
    )
    checkpoints = Checkpoints(
        store.workdir / f"training-{config.share.index}", 60 * config.checkpoint_minutes
    )
    whose = f" the share of process {config.share.index}" if config.share.count > 1 else ""
    with tqdm(
        total=len(mine),
        initial=len(mine) - len(missing),
        desc="characterising" + whose,
        bar_format=_BAR_FORMAT,
    ) as bar:
        for measurement in grid.characterise(
            cells,
            missing,
            features,
            parts,
            settings,
            execution,
            seed=config.seed,
            examples=shown,
            # Shares of cells add up to a little more than their number by rounding.
            progress=lambda share: bar.update(min(share, bar.total - bar.n)),
            checkpoints=checkpoints,
        ):
            result = _result(measurement, config.image_size, execution.environment)
            store.save(result, _arrays(measurement))
            store.write_tables([cell.name for cell in cells])
    # What is left belongs to groups of another number of devices.
    shutil.rmtree(checkpoints.folder, ignore_errors=True)


def _result(measurement: grid.Measurement, image_size: int, environment: str) -> CellResult:
    topology = measurement.cell.topology
    cost = local_cost(topology, image_size)
    return CellResult(
        name=measurement.cell.name,
        num_layers=topology.num_layers,
        layer=topology.layer.name,
        depth=topology.depth,
        draw=measurement.cell.draw,
        channels=topology.channels,
        accuracy=summarise(measurement.accuracy["test"]).mean,
        validation_accuracy=summarise(measurement.accuracy["validation"]).mean,
        attacks=tuple(
            AttackResult.of_images(attacker_name, by_part)
            for attacker_name, by_part in measurement.attacks.items()
        ),
        cost={
            "local_macs": cost.macs,
            "local_param_bytes": cost.param_bytes,
            "local_activation_bytes": cost.peak_activation_bytes,
            "release_bytes": cost.release_bytes,
        },
        environment=environment,
        train_seconds=measurement.seconds,
    )


def _arrays(measurement: grid.Measurement) -> dict[str, np.ndarray]:
    """The arrays kept beside a cell's result: test images' metrics, and example estimates."""
    arrays = {"accuracy": measurement.accuracy["test"]}
    for name, by_part in measurement.attacks.items():
        for metric, values in by_part["test"].items():
            arrays[f"{name}_{metric}"] = values
    for name, estimates in measurement.examples.items():
        arrays[f"{name}_examples"] = estimates
    return arrays
