"""The package that is put on a device, opened: one folder with all that a local NN needs there.

    package = open_package(Path("device"))
    package.represent(images)  # uint8 [N, S, S, 3] to float32 [N, *package.shape]

Compared with the published network, the weights tell which channels were chosen, and settings hold
the seed of releases: a package is as secret as its plan. No JAX here: devices run this.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privynet_jax.deployment.trust.signatures import ANYBODY, Trust
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.mechanisms.on_device import OnDevice
from privynet_jax.platform.digests import verify_files
from privynet_jax.platform.documents import Count, Hex64, Positive, Text, read_document
from privynet_jax.platform.onnx_files.onnx_run import (
    IMAGES,
    REPRESENTATIONS,
    OnnxRun,
    milliseconds_of,
)

VERSION = 7
SETTINGS, NETWORK, CLOUD_NETWORK = "local_nn.json", "local_nn.onnx", "cloud_nn.onnx"
_EXPORT = "give a folder that experiments.export_local wrote, copy it again, or export it again"
# Far above the rounding of any device, far below what a wrong weight changes.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What local_nn.json tells besides its version and checksum.

    Attributes:
        image_size: side of the images, in pixels.
        shape: (h, w, depth) of one representation.
        class_ids: class name -> what it is called in releases; see `secret_draw.class_ids`.
        peaks: of each channel, the largest value that a byte of a release holds.
        mechanism: what is done besides; see `mechanisms.on_device`.
        unit: what released values are divided by.
        reading: how the plan's pictures were read.
        plan_id: of the plan that it was made of.
        release_seed: 64 hexadecimal digits, secret, made for this package.
        trial: of each channel the mean over `trial_images`, by the network of all measurements.
        files: name -> sha256 of the others.
    """

    image_size: Count
    shape: tuple[Count, Count, Count]
    class_ids: dict[Text, Hex64]
    peaks: tuple[Positive, ...]
    mechanism: Text
    unit: Positive
    reading: Reading
    plan_id: Hex64
    release_seed: Hex64 = dataclasses.field(repr=False)
    trial: tuple[float, ...]
    files: dict[Text, Hex64]

    def __post_init__(self) -> None:
        if {len(self.peaks), len(self.trial)} != {self.shape[-1]}:
            raise UserError("peaks and trial are not one number per channel")
        if len({*self.class_ids.values()}) < len(self.class_ids):
            raise UserError("two classes of one id")


class LocalPackage:
    """A package that was opened and verified, with all that its `Settings` tell."""

    def __init__(self, settings: Settings, network: OnnxRun, cloud_network: bytes) -> None:
        """Takes what `open_package` read."""
        self.image_size, self.shape = settings.image_size, settings.shape
        # In the order of ids, which is that of labels.
        self.class_ids = dict(sorted(settings.class_ids.items(), key=lambda entry: entry[1]))
        self.reading = settings.reading
        self.plan_id, self.release_seed = settings.plan_id, settings.release_seed
        self.peaks = np.float32(settings.peaks)
        self.cloud_network = cloud_network  # of `cloud_graph`, for classifiers
        self._trial, self._network = np.float32(settings.trial), network
        self._mechanism = OnDevice(settings.mechanism, settings.unit, settings.release_seed)

    @property
    def is_signed(self) -> bool:
        """Whether what is released may be negative."""
        return self._mechanism.is_signed

    def names_of(self, classes: Sequence[str]) -> list[str]:
        """Returns the names of classes that a classifier knows by ids, ids where it has no name."""
        names = {class_id: name for name, class_id in self.class_ids.items()}
        return [names.get(class_id, f"unknown {class_id[:8]}") for class_id in classes]

    def represent(self, images: np.ndarray) -> np.ndarray:
        """Returns what is released of images, float32 [N, h, w, depth], normalised.

        They are uint8 [N, image_size, image_size, 3] RGB; UserError for others.
        """
        sides = (self.image_size, self.image_size, 3)
        if images.ndim != 4 or images.shape[1:] != sides or images.dtype != np.uint8:
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}; expected uint8 "
                f"[N, {sides[0]}, {sides[1]}, 3], RGB; resize and convert them"
            )
        return self._mechanism.released(images, self._clean)

    def _clean(self, images: np.ndarray) -> np.ndarray:
        return self._network.run({IMAGES: images})

    def milliseconds(self) -> float:
        """Returns how long `represent` takes on one image."""
        image = trial_images(self.image_size)[:1]
        return milliseconds_of(lambda: self.represent(image))

    def check(self) -> None:
        """Raises UserError where this machine computes something else than the planner's."""
        means = self._clean(trial_images(self.image_size)).mean((0, 1, 2))
        off = np.abs(means - self._trial).max() / max(self._trial.max(), 1e-6)
        if not off <= _TOLERANCE:
            raise UserError(f"the network is off by {off:.1e} on this machine; update onnxruntime")


def open_package(folder: Path, threads: int = 0, trust: Trust = ANYBODY) -> LocalPackage:
    """Opens a package and verifies every file of it; threads are one per core by default.

    Raises:
        UserError: something is missing, damaged, of another version or inconsistent, it is no
            package, or nobody who is trusted signed it.
    """
    path = folder / SETTINGS
    try:
        held, _ = trust.checked("package", path)
        settings = read_document(held, Settings, VERSION, _EXPORT, what="package for a device")
        if not {NETWORK, CLOUD_NETWORK} <= settings.files.keys():
            raise UserError(f"{path} lists no networks; {_EXPORT}")
        if strange := [name for name in settings.files if Path(name).name != name]:
            raise UserError(f"{path} lists {strange[0]!r}, no file of the folder; {_EXPORT}")
        verify_files(folder, settings.files, _EXPORT)
        network = OnnxRun(folder / NETWORK, _EXPORT, threads)
        cloud_network = (folder / CLOUD_NETWORK).read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; {_EXPORT}") from None
    sides = (settings.image_size, settings.image_size, 3)
    expected = {IMAGES: ("N", *sides), REPRESENTATIONS: ("N", *settings.shape)}
    if network.shapes != expected:
        raise UserError(f"{folder / NETWORK} is not the network that {path} describes; {_EXPORT}")
    return LocalPackage(settings, network, cloud_network)


def trial_images(image_size: int) -> np.ndarray:
    """Returns eight made-up images, uint8 [8, image_size, image_size, 3]."""
    number, y, x, colour = np.ogrid[:8, :image_size, :image_size, :3]
    # Not the same when it is turned over, as a network with its axes exchanged would have it.
    return np.uint8((x * y * (colour + 1) // (number + 1) + 40 * number * colour + 3 * y) % 251)
