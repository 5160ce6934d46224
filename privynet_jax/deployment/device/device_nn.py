"""Runs a local NN: images to normalised representations, with NumPy and onnxruntime alone.

privynet_jax puts a copy of this file, named local_nn.py, into every package for a device, beside
the network and the settings that it reads. In the package's folder

    python local_nn.py                        verifies all files and tests the network
    python local_nn.py images.npy output.npy  writes the representations of images

and, from Python,

    settings, represent = local_nn.open_package(".")
    representations = represent(images)  # uint8 [N, S, S, 3] -> float32 [N, h, w, depth]

Images are RGB, S is settings["image_size"], and [h, w, depth] is settings["shape"]. It imports
nothing of privynet_jax, so that the copy runs where that is not installed.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FORMAT, VERSION = "privynet_jax local NN", 4
SETTINGS, NETWORK = "local_nn.json", "local_nn.onnx"
_BATCH = 64
# Far above the rounding of any device, far below what a wrong weight changes.
_TOLERANCE = 1e-3
_COPY = "copy the package again"
_ERRORS_ALONE = 3  # of onnxruntime's degrees of severity

Represent = Callable[[np.ndarray], np.ndarray]


class PackageError(ValueError):
    """A package or images that cannot be used; the message says why, on one line."""


def open_package(folder: os.PathLike[str] | str) -> tuple[dict[str, Any], Represent]:
    """Verifies a package; returns its settings and the function from images to representations.

    Raises:
        PackageError: a file is damaged or of another version. The function raises it for images
            that are not uint8 [N, image_size, image_size, 3].
        OSError: a file is missing or cannot be read.
    """
    settings = read_settings(Path(folder))
    return settings, load(Path(folder), settings)


def load(folder: Path, settings: Mapping[str, Any]) -> Represent:
    """Returns the function of `open_package`; what `read_settings` returned is trusted."""
    options, path = onnxruntime.SessionOptions(), folder / NETWORK
    options.log_severity_level = _ERRORS_ALONE
    try:
        network = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its types are no public names
        reason = " ".join(str(error).split())
        raise PackageError(f"{path} cannot be run: {reason}; {_COPY}") from None
    [given], [made] = network.get_inputs(), network.get_outputs()
    size = settings["image_size"]
    sides = [size, size, 3]
    found = given.type, given.shape[1:], made.shape[1:]
    if found != ("tensor(uint8)", sides, list(settings["shape"])):
        raise PackageError(f"{path} is not the network that {SETTINGS} describes; {_COPY}")

    def represent(images: np.ndarray) -> np.ndarray:
        if images.ndim != 4 or list(images.shape[1:]) != sides or images.dtype != np.uint8:
            raise PackageError(
                f"images are {images.dtype} {list(images.shape)}; expected uint8 "
                f"[N, {size}, {size}, 3], RGB; resize and convert them"
            )
        return network.run([made.name], {given.name: images})[0]

    return represent


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns a package's settings, once the sha256 of every file is verified."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
        stated = settings["format"], settings["version"]
        # What is nested so deeply that it can be read, but not written, ends here too.
        is_unchanged = settings.get("sha256") == settings_digest(settings)
        digests = dict(settings["files"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageError(f"{path} is not the settings of a local NN; {_COPY}") from None
    if stated != (FORMAT, VERSION):
        raise PackageError(
            f"{path} is {stated[0]!r} version {stated[1]!r}, and this program reads {FORMAT!r} "
            f"version {VERSION}; run the package's own local_nn.py"
        )
    if not is_unchanged:
        raise PackageError(f"{path} was changed or damaged; {_COPY}")
    for name, expected in digests.items():
        if os.path.basename(name) != name:
            raise PackageError(f"{path} lists {name!r}, which is no file of the folder; {_COPY}")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise PackageError(f"{folder / name} was changed or damaged; {_COPY}")
    return settings


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns the hexadecimal sha256 of settings without their own entry "sha256"."""
    content = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def trial_images(image_size: int) -> np.ndarray:
    """Returns eight made-up images, uint8 [8, image_size, image_size, 3]."""
    number, y, x, colour = np.ogrid[:8, :image_size, :image_size, :3]
    # Not the same when it is turned over, as a network with its axes exchanged would have it.
    return np.uint8((x * y * (colour + 1) // (number + 1) + 40 * number * colour + 3 * y) % 251)


def convert(represent: Represent, source: str, target: str) -> None:
    """Writes the representations of a .npy file of images, uint8 [N, S, S, 3]."""
    images = np.load(source, mmap_mode="r")
    firsts = range(0, max(1, len(images)), _BATCH)
    done = [represent(images[first : first + _BATCH]) for first in firsts]
    with open(target, "wb") as file:
        np.save(file, np.concatenate(done))


def main(arguments: Sequence[str]) -> None:
    """Runs the package in this file's folder as the top of this file says."""
    if len(arguments) not in (0, 2):
        raise PackageError("give either nothing, or a file of images and a file to write")
    settings, represent = open_package(Path(__file__).resolve().parent)
    if arguments:
        convert(represent, *arguments)
        return
    size, shape = settings["image_size"], settings["shape"]
    expected = np.float32(settings["trial"])
    means = represent(trial_images(size)).mean((0, 1, 2))
    off = np.abs(means - expected).max() / max(expected.max(), 1e-6)
    if not off <= _TOLERANCE:
        raise PackageError(f"the network is off by {off:.1e} on this machine; update onnxruntime")
    print(f"The package is whole and works: images {[size, size, 3]} to representations {shape}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as problem:  # what was raised here, or by NumPy for its files
        sys.exit(f"error: {problem}")
