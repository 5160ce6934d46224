"""The settings of a characterisation, checked before anything is fetched or written.

`experiments.characterize` makes a `Config` from flags; a notebook can make its own, and hand it to
`characterisation.characterise`.

    config = Config(workdir=Path("runs/first"), layers=(2, 4), depths=(8, 32))
    config.cells()  # raises UserError where a setting makes no sense
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.backbone.topology import CONV_LAYERS, METHODS, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts
from privynet_jax.platform.files import is_remote
from privynet_jax.platform.processes import Share
from privynet_jax.results.cells import Candidates, Cell, grid_cells
from privynet_jax.training.attackers import STRONG, check_attackers
from privynet_jax.training.networks import WORKING_STRIDE
from privynet_jax.training.tasks import RESIDUAL, Schedule

DEDICATED, AMORTISED, LINEAR = MODES = ("dedicated", "amortised", "linear")
_USUAL_ATTACKERS = {DEDICATED: (STRONG,), AMORTISED: (RESIDUAL,), LINEAR: ()}
# VGG16's first layer alone takes 256 MiB of one image of that size.
_LARGEST_IMAGE, _LARGEST_AMOUNT = 1024, 10**6
LOCAL_CACHE = Path("~/.cache/privynet_jax")


def check_side(image_size: int, layers: Sequence[int]) -> None:
    """Raises UserError unless all networks take images of a size.

    Args:
        image_size: side of the images in pixels.
        layers: numbers of local convolution layers, at least one, each 1 to 13.
    """
    unit = max(WORKING_STRIDE, CONV_LAYERS[max(layers) - 1].stride)
    if not 16 <= image_size <= _LARGEST_IMAGE or image_size % unit:
        raise UserError(
            f"image_size is {image_size}; allowed are multiples of {unit} from 16 to "
            f"{_LARGEST_IMAGE} with {max(layers)} layers; give another size or fewer layers"
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """What is characterised, and how thoroughly.

    Attributes:
        workdir: folder for results; made when missing.
        dataset: as `data.load_parts` takes it.
        weights: as `weights.load_weights` takes it.
        layers: numbers of local convolution layers, each 1 to 13.
        depths: numbers of released channels.
        draws: random draws of channels per (layers, depth, selection); trainings of direct's.
        selections: how the channels are found that draws are made from; `selection.METHODS`.
        image_size: side of the images in pixels; a multiple of the deepest layer's stride and of 4.
        seed: of the parts, the draws and all training.
        cache_dir: folder for weights and features; or a bucket for features, such as
            gs://bucket/folder: weights are then kept in the default folder.
        data_dir: folder of TFDS data sets; None is TFDS's default.
        max_images: part name -> the most images used of it.
        skip_unreadable: leave out images that cannot be decoded instead of refusing them.
        feature_dtype: how representations are cached: float16, float32 or uint8 (`coding`).
        cloud: schedule of the cloud NN.
        attackers: names of the trained attackers in mode dedicated, of
            `trained_attackers.CAPACITIES`; none: the usual one, strong. Other modes have their own.
        attacker: schedule of each trained attacker.
        cloud_width: channels of the cloud NN.
        attacker_width: channels of the residual attacker.
        attacker_blocks: residual blocks of the residual attacker.
        compute_dtype: of the trained networks' arithmetic, "float32" or "bfloat16"; VGG16, the
            linear attack and all metrics are float32 in any case.
        examples: test images whose reconstructions are kept.
        mode: "dedicated" trains networks per cell, "amortised" per layer, "linear" none at all.
        scoring_images: images per part on which the last two score a cell; attackers are scored
            on half of them, or on all where they are fine-tuned.
        fine_tuning_steps: in amortised mode, steps by which each cell's copies of the layer's
            networks are trained further.
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
    selections: tuple[str, ...] = (RANDOM,)
    image_size: int = 32
    seed: int = 0
    cache_dir: Path | str = LOCAL_CACHE
    data_dir: Path | None = None
    max_images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skip_unreadable: bool = False
    feature_dtype: str = "float16"
    cloud: Schedule = Schedule(steps=1000)  # noqa: RUF009 - frozen
    attackers: tuple[str, ...] = ()
    attacker: Schedule = Schedule(steps=2000, batch_size=16, learning_rate=3e-3)  # noqa: RUF009
    cloud_width: int = 64
    attacker_width: int = 64
    attacker_blocks: int = 3
    compute_dtype: str = "float32"
    examples: int = 10
    mode: str = DEDICATED
    scoring_images: int = 64
    fine_tuning_steps: int = 0
    cells_per_device: int = 0
    steps_per_dispatch: int = 0
    device_memory_gib: float = 0.0
    checkpoint_minutes: float = 5.0
    share: Share = Share()  # noqa: RUF009 - frozen

    def cells(self, candidates: Candidates | None = None) -> tuple[Cell, ...]:
        """Returns the grid's cells, or raises UserError where a setting makes no sense.

        Args:
            candidates: of the selections; without them, only names and numbers of cells are right
                (`cells.grid_cells`).
        """
        if unknown := set(self.selections) - set(METHODS):
            raise UserError(
                f"selections name {', '.join(sorted(unknown))}; allowed are {', '.join(METHODS)}"
            )
        axes = (self.layers, self.depths, self.draws, self.seed)
        cells = grid_cells(*axes, self.selections, candidates)
        check_side(self.image_size, self.layers)
        for name in ("device_memory_gib", "checkpoint_minutes"):
            value = getattr(self, name)
            if not 0 <= value <= _LARGEST_AMOUNT:
                raise UserError(
                    f"{name} is {value}; allowed are numbers from 0 to {_LARGEST_AMOUNT}; "
                    "leave it out for the usual value"
                )
        self._check_mode()
        return cells

    @property
    def trained_attackers(self) -> tuple[str, ...]:
        """Names of the trained attackers, whether they were given or are usual in this mode."""
        return self.attackers or _USUAL_ATTACKERS[self.mode]

    @property
    def local_cache(self) -> Path:
        """The folder for weights, which are never in a bucket."""
        remote = is_remote(self.cache_dir)
        return Path(LOCAL_CACHE if remote else self.cache_dir).expanduser()

    @property
    def feature_cache(self) -> Path | str:
        """The folder for features, or a bucket's address."""
        return self.cache_dir if is_remote(self.cache_dir) else self.local_cache

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], workdir: Path, **others: Any) -> "Config":
        """Returns the configuration that `deciding` described.

        Args:
            settings: what `config.json` holds.
            workdir: of the new configuration.
            others: fields that the settings say nothing about, or that are to differ.

        Raises:
            UserError: they lack a setting, or hold one that cannot be used.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            known = {name: value for name, value in settings.items() if name in names}
            for name in ("layers", "depths", "selections", "attackers"):
                known[name] = tuple(known[name])
            for name in ("cloud", "attacker"):
                known[name] = Schedule(**known[name])
            return cls(**{**known, "workdir": workdir, **others})
        except (KeyError, TypeError):
            raise UserError(
                f"the settings in {workdir} are damaged or of another version; characterise again "
                "in a new folder"
            ) from None

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
            "attackers": sorted(self.trained_attackers),
            "data_fingerprint": parts.fingerprint,
            "weights_fingerprint": weights.fingerprint,
        }

    def _check_mode(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode is {self.mode!r}; allowed are {', '.join(MODES)}; give one")
        usual = _USUAL_ATTACKERS[self.mode]
        if self.mode == DEDICATED:
            check_attackers(self.trained_attackers)
        elif self.attackers and self.attackers != usual:
            raise UserError(
                f"attackers are {', '.join(self.attackers)} in mode {self.mode}, which has its own;"
                " leave them out or use the mode dedicated"
            )
        if self.mode != DEDICATED and self.scoring_images < self.examples:
            raise UserError(
                f"scoring_images is {self.scoring_images}; allowed are at least as many as "
                f"examples, {self.examples}; score on more images or keep fewer examples"
            )
        if self.mode != DEDICATED and self.compute_dtype != "float32":
            raise UserError(
                f"compute_dtype is {self.compute_dtype} in mode {self.mode}; allowed is float32 "
                "there; leave it out or use the mode dedicated"
            )
        if self.fine_tuning_steps < 0 or (self.fine_tuning_steps and self.mode != AMORTISED):
            raise UserError(
                f"fine_tuning_steps is {self.fine_tuning_steps} in mode {self.mode}; allowed are "
                "positive numbers in mode amortised, else 0; leave it out or change the mode"
            )
