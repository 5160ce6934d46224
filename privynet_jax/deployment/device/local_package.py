"""The package that is put on a device, opened: one folder with all that a local NN needs there.

`device_nn` runs it, here and, as a copy, on the device. No JAX here.

    package = open_package(Path("device"))
    package.represent(images)  # uint8 [N, S, S, 3] to float32 [N, *package.shape]

Compared with the published network, the weights tell which channels were chosen, and settings hold
the seed of releases: a package is as secret as its plan.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from privynet_jax.deployment.device import device_nn
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Count, Hex64, Positive, Text, White, checked

_EXPORT = "give a folder that experiments.export_local wrote, copy it again, or export it again"


@dataclasses.dataclass(frozen=True, eq=False)
class LocalPackage:
    """A package that was opened and verified.

    Attributes:
        image_size: side of the images, in pixels.
        shape: (h, w, depth) of one representation.
        class_names: of the user's pictures, in the order of their labels in releases.
        peaks: float32 [depth], the largest value which a byte of a release holds.
        sixteen_bit_max: white in greyscale of 16 bits that states no range; 0: nothing is said.
        plan_id: of the plan that it was made of.
        release_seed: 64 hexadecimal digits, secret, made for this package.
        represent: images, uint8 [N, image_size, image_size, 3] RGB, to what is released of them,
            float32 [N, h, w, depth], normalised. UserError for other images.
    """

    image_size: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    peaks: np.ndarray = dataclasses.field(repr=False)
    sixteen_bit_max: int
    plan_id: str
    release_seed: str = dataclasses.field(repr=False)
    represent: device_nn.Represent = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What local_nn.json tells besides its format, version and checksum."""

    image_size: Count
    shape: tuple[Count, Count, Count]
    class_names: tuple[Text, ...]
    peaks: tuple[Positive, ...]
    sixteen_bit_max: White
    plan_id: Hex64
    release_seed: Hex64
    trial: tuple[float, ...]
    files: dict[Text, Hex64]

    def __post_init__(self) -> None:
        if {len(self.peaks), len(self.trial)} != {self.shape[-1]}:
            raise UserError("peaks and trial are not one number per channel")


def open_package(folder: Path) -> LocalPackage:
    """Opens a package and verifies every file of it.

    Raises:
        UserError: something is missing, damaged, of another version or inconsistent, or it is no
            package.
    """
    try:
        settings = device_nn.read_settings(folder)
        told = {name: settings[name] for name in settings.keys() - {"format", "version", "sha256"}}
        found = checked(told, Settings, f"{folder} is no package for a device", _EXPORT)
        # By this library's own program; the copy in the package is not run.
        represent = device_nn.load(folder, settings)
        return LocalPackage(
            image_size=found.image_size,
            shape=found.shape,
            class_names=found.class_names,
            peaks=np.float32(found.peaks),
            sixteen_bit_max=found.sixteen_bit_max,
            plan_id=found.plan_id,
            release_seed=found.release_seed,
            represent=functools.partial(_checked, represent),
        )
    except device_nn.PackageError as error:
        raise UserError(f"{error}, or export it again") from None
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; {_EXPORT}") from None


def _checked(represent: device_nn.Represent, images: np.ndarray) -> np.ndarray:
    try:
        return represent(images)
    except device_nn.PackageError as error:
        raise UserError(str(error)) from None
