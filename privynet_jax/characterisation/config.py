"""The settings of a characterisation, checked before anything is fetched or written.

`experiments.characterize` makes a `Config` from flags; a notebook can make its own, and hand it to
`characterisation.characterise`.

    config = Config(workdir=Path("runs/first"), layers=(2, 4), depths=(8, 32))
    config.cells()  # raises UserError where a setting makes no sense
"""
# ruff: noqa: RUF009 - what looks like function calls as defaults are fields

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.attacks.registry import Training, attackers
from privynet_jax.backbone.backbones import BACKBONES, DEFAULT, backbone_named
from privynet_jax.backbone.topology import METHODS, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.modes import DEDICATED, MODES, USUAL_ATTACKERS, check_mode
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts, load_parts
from privynet_jax.images.pixels.reading import FITS, Reading, window_of
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.mechanisms.words import planned_mechanism
from privynet_jax.platform.devices import Spread
from privynet_jax.platform.files import expanded, is_remote
from privynet_jax.platform.rows.coding import DTYPES
from privynet_jax.results.cells import Candidates, Cell, grid_cells
from privynet_jax.results.work_directory import FORMAT
from privynet_jax.training.models.grid_sizes import WORKING_STRIDE
from privynet_jax.training.tasks import Schedule, check_learning_rate

# A VGG's first layer alone takes 256 MiB of one image of that size.
_LARGEST_IMAGE, _LARGEST_AMOUNT = 1024, 10**6
MOST_SEED = 2**32 - 1
LOCAL_CACHE = Path("~/.cache/privynet_jax")


def check_side(image_size: int, layers: Sequence[int], backbone: str = DEFAULT) -> None:
    """Raises UserError unless all networks take images of a size."""
    unit = max(WORKING_STRIDE, backbone_named(backbone).cut(max(layers)).stride)
    if not 16 <= image_size <= _LARGEST_IMAGE or image_size % unit:
        raise UserError(
            f"image_size is {image_size}; allowed are multiples of {unit} from 16 to "
            f"{_LARGEST_IMAGE} with {max(layers)} layers; give another size or fewer layers"
        )


def _setting(default: Any, told: str, **more: Any) -> Any:
    """Returns a field of `Config` with a default, or a type that makes one, and its flag's help.

    Args:
        default: its value where none is given, or a type that makes one.
        told: what it is, for people; the help of its flag. Of a schedule, of what.
        more: "least", "most" and "choices" of its flag, and "decides": whether it decides the
            numbers, as nearly all do.
    """
    given = {"default_factory" if isinstance(default, type) else "default": default}
    return dataclasses.field(**given, metadata={"told": told, **more})


# Where things are, and how work is spread: neither decides any number.
_place = _execution = functools.partial(_setting, decides=False)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is characterised, and how thoroughly; each setting says what it is.

    The flags of `experiments.characterize` are made of these fields.
    """

    workdir: Path = _place(dataclasses.MISSING, "Folder of a characterisation's results.")
    dataset: str = _setting("photo_patches", "photo_patches, folder:PATH or TFDS name.")
    backbone: str = _setting(DEFAULT, "Pretrained network that is split.", choices=tuple(BACKBONES))
    # Weights count by their fingerprint: the same ones may come from another file or format.
    weights: str = _place(
        "embedded",
        "Pretrained weights: embedded or keras, both of VGG16, or the path of a weight file (.h5, "
        ".keras, .pth, .safetensors) or of a folder that experiments.port_weights wrote.",
    )
    layers: tuple[int, ...] = _setting((2, 4, 7, 10), "Numbers of local layers; 1..13 of VGG16.")
    depths: tuple[int, ...] = _setting((8, 32), "Numbers of released channels.")
    draws: int = _setting(
        2, "Random channel draws per (layers, depth, selection); trainings of direct's."
    )
    selections: tuple[str, ...] = _setting(
        (RANDOM,),
        f"What draws are made from: {', '.join(METHODS)}; direct searches for the best channels.",
    )
    # Decides where it is given; `deciding` names it then.
    only: tuple[str, ...] = _place(
        (), "Cells to measure, as in m02_d008_r00,m04_d032_r01; default: the whole grid."
    )
    image_size: int = _setting(
        32, "Side of images in pixels: a multiple of 4 and of the deepest layer's stride."
    )
    seed: int = _setting(0, "Of everything that is random.", least=0, most=MOST_SEED)
    cache_dir: Path | str = _place(
        LOCAL_CACHE,
        "Folder for weights and features; features also in a bucket, as in gs://bucket/folder.",
    )
    data_dir: Path | str | None = _place(None, "Folder of TFDS data sets; default: TFDS's own.")
    # Decides where it is given; `deciding` names it then.
    mechanism: str = _place(
        "none",
        "What devices do besides splitting, as in gaussian:clip=1,sigma=0.5; those that "
        "privynet_jax/mechanisms/README.md says plans may have.",
    )
    max_images: Mapping[str, int] = _setting(
        dict, "Most images per part, as in target=3000,test=1000; default: all."
    )
    # Like places: the images that are used count by their fingerprint.
    skip_unreadable: bool = _place(False, "Leave out images that cannot be decoded.")
    sixteen_bit_max: int = _setting(
        0,
        "White in greyscale of 16 bits that states no range, as 4095 of 12 bits; 0: unknown.",
        least=0,
        most=65535,
    )
    # Decide where they are given; `deciding` names them then.
    fit: str = _place(
        "crop",
        "Of pictures that are no squares: crop to the middle, or pad with black.",
        choices=FITS,
    )
    dicom_window: str = _place(
        "", "CENTRE,WIDTH of what DICOM shows, as in 40,400, in place of the window in each file."
    )
    feature_dtype: str = _setting("float16", "How representations are cached.", choices=DTYPES)
    cloud: Schedule = _setting(Schedule(steps=1000), "the cloud NN")
    attackers: tuple[str, ...] = _setting(
        (),
        f"Of {', '.join(attackers(Training()))}; the strongest counts, the linear one always "
        "attacks. Default: strong, or what the command or the mode says.",
    )
    attacker: Schedule = _setting(
        Schedule(steps=2000, batch_size=16, learning_rate=None),
        "each trained attacker; by default each network has its own learning rate",
    )
    cloud_width: int = _setting(64, "Channels of the cloud NN.", least=1, most=4096)
    attacker_width: int = _setting(64, "Channels of the residual attacker.", least=1, most=4096)
    attacker_blocks: int = _setting(
        3, "Residual blocks of the residual attacker.", least=0, most=256
    )
    compute_dtype: str = _setting(
        "float32",
        "Arithmetic of the trained networks; bfloat16 is faster on accelerators. The backbone, the "
        "linear attack and all metrics are float32 in any case.",
        choices=("float32", "bfloat16"),
    )
    examples: int = _setting(10, "Test images kept with reconstructions.", least=1, most=100)
    mode: str = _setting(
        DEDICATED, "Networks trained per cell, per layer, or none at all.", choices=MODES
    )
    scoring_images: int = _setting(
        512,
        "Images per part that cells are scored on in modes amortised and linear; attackers on an "
        "eighth of them.",
        least=1,
    )
    cells_per_device: int = _execution(
        0, "Cells trained at once by a device; 0: the backend decides.", least=0
    )
    steps_per_dispatch: int = _execution(
        0, "Training steps per dispatch; 0: the backend decides.", least=0
    )
    device_memory_gib: float = _execution(
        0.0, "Memory to use of each device; 0: all that an accelerator says it has.", least=0.0
    )
    checkpoint_minutes: float = _execution(
        5.0, "Minutes between two checkpoints of what is in training.", least=0.0
    )
    cluster: str = _execution(
        "",
        "Ray cluster that does the work: local, auto, or HOST:PORT of its head; default: none.",
    )

    def cells(self, candidates: Candidates | None = None) -> tuple[Cell, ...]:
        """Returns the grid's cells, or raises UserError where a setting makes no sense.

        Without the selections' candidates, only names and numbers of cells are right.
        """
        if unknown := set(self.selections) - set(METHODS):
            raise UserError(
                f"selections name {', '.join(sorted(unknown))}; allowed are {', '.join(METHODS)}"
            )
        axes = (self.layers, self.depths, self.draws, self.seed)
        cells = grid_cells(*axes, self.selections, candidates, self.backbone)
        check_side(self.image_size, self.layers, self.backbone)
        _ = self.reading
        for name in ("device_memory_gib", "checkpoint_minutes"):
            value = getattr(self, name)
            if not 0 <= value <= _LARGEST_AMOUNT:
                raise UserError(
                    f"{name} is {value}; allowed are numbers from 0 to {_LARGEST_AMOUNT}; "
                    "leave it out for the usual value"
                )
        check_learning_rate(self.cloud.learning_rate)
        check_mode(self)
        if unknown := set(self.only) - {cell.name for cell in cells}:
            raise UserError(
                f"only names {', '.join(sorted(unknown))}; allowed are cells of the grid, from "
                f"{cells[0].name} to {cells[-1].name}; give those, or another grid"
            )
        return tuple(cell for cell in cells if not self.only or cell.name in self.only)

    @property
    def chosen_attackers(self) -> tuple[str, ...]:
        """Names of the attackers, whether they were given or are usual in this mode."""
        return self.attackers or USUAL_ATTACKERS[self.mode]

    @property
    def local_cache(self) -> Path:
        """The folder for weights, which are never in a bucket."""
        remote = is_remote(self.cache_dir)
        return expanded("cache_dir", LOCAL_CACHE if remote else str(self.cache_dir))

    @property
    def feature_cache(self) -> Path | str:
        """The folder for features, or a bucket's address."""
        return self.cache_dir if is_remote(self.cache_dir) else self.local_cache

    @property
    def spread(self) -> Spread:
        """How the user wants work spread over devices."""
        return Spread(self.cells_per_device, self.steps_per_dispatch, self.device_memory_gib)

    def load_parts(self) -> Parts:
        """Returns the images; see `parts.load_parts`."""
        names = ("data_dir", "image_size", "seed", "max_images", "skip_unreadable", "reading")
        return load_parts(self.dataset, **{name: getattr(self, name) for name in names})

    @property
    def of_devices(self) -> Mechanism:
        """The mechanism; UserError where plans may not have it."""
        return planned_mechanism(self.mechanism)

    @property
    def reading(self) -> Reading:
        """How pictures are decoded; UserError where a setting makes no sense."""
        return Reading(self.sixteen_bit_max, self.fit, window_of(self.dicom_window))

    def reading_as(self, given: Reading) -> "Config":
        """Returns the same, with what is said of pictures besides; UserError where they differ."""
        agreed = given.agreed(self.reading)
        window = ",".join(map(str, agreed.dicom_window or ()))
        return dataclasses.replace(
            self, sixteen_bit_max=agreed.sixteen_bit_max, dicom_window=window
        )

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], workdir: Path, **others: Any) -> "Config":
        """Returns the configuration that `deciding` described, but for `others`.

        Raises:
            UserError: the settings, of `config.json`, lack one, or hold one that cannot be used.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            known = {name: value for name, value in settings.items() if name in names}
            known.setdefault("only", ())
            for name in ("layers", "depths", "selections", "only", "attackers"):
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
        settings = dataclasses.asdict(self)
        fields = dataclasses.fields(self)
        return {
            **{f.name: settings[f.name] for f in fields if f.metadata.get("decides", True)},
            **({"only": sorted(self.only)} if self.only else {}),
            **({"fit": self.fit} if self.fit != FITS[0] else {}),
            **({"dicom_window": self.dicom_window} if self.dicom_window else {}),
            **({"mechanism": str(self.of_devices)} if self.of_devices != Plain() else {}),
            "format": FORMAT,
            "dataset": parts.name,  # written in one way
            "layers": sorted(self.layers),
            "depths": sorted(self.depths),
            "attackers": sorted(self.chosen_attackers),
            "data_fingerprint": parts.fingerprint,
            "weights_fingerprint": weights.fingerprint,
        }
