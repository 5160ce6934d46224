"""Runs a local NN: images to representations, with JAX and NumPy alone.

privynet_jax puts a copy of this file, named local_nn.py, into every package for a device, beside
the weights and settings that it reads, and the network, local_network.py. In the package's folder

    python local_nn.py                        verifies all files and tests the network
    python local_nn.py images.npy output.npy  writes the representations of images

and, from Python,

    settings, run = local_nn.open_package(".")
    representations = run(images)  # float32 [N, S, S, 3] -> float32 [N, h, w, depth]
    normalised = representations * np.float32(settings["scales"])

Images are RGB in [0, 1], S is settings["image_size"], and [h, w, depth] is settings["shape"].
It imports nothing of privynet_jax, so that the copy runs where that is not installed.
"""

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT, VERSION = "privynet_jax local NN", 3
SETTINGS, WEIGHTS, NETWORK = "local_nn.json", "local_nn.safetensors", "local_network.py"
# safetensors' names of the types that packages hold; its numbers are little-endian.
_TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}
_BATCH = 64
# Far above the rounding of any device, far below what a wrong weight changes.
_TOLERANCE = 1e-3
_COPY = "copy the package again"


class PackageError(ValueError):
    """A package or images that cannot be used; the message says why, on one line."""


Network = Callable[[Any, Any], Any]


def open_package(
    folder: os.PathLike[str] | str,
) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Verifies a package; returns its settings and the function from images to representations.

    It runs local_network.py, which lies beside this file.

    Raises:
        PackageError: a file is damaged or of another version. The function raises it for images
            that are not float32 [N, image_size, image_size, 3].
        OSError: a file is missing or cannot be read.
    """
    settings = read_settings(Path(folder))
    # By its path: the folder need not be one that Python imports from.
    program = runpy.run_path(str(Path(__file__).with_name(NETWORK)))
    return settings, load(Path(folder), settings, program["network"](settings))


def load(folder: Path, settings: Mapping[str, Any], network: Network) -> Callable[[Any], Any]:
    """Returns the function of `open_package`, by a pure function (params, images)."""
    compiled = jax.jit(network)
    params = jax.tree.map(jnp.asarray, read_weights(folder / WEIGHTS))
    shape = (settings["image_size"], settings["image_size"], 3)

    def run(images: Any) -> Any:
        if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.float32:
            raise PackageError(
                f"images are {images.dtype} {list(images.shape)}; expected float32 "
                f"[N, {shape[0]}, {shape[1]}, 3], RGB in [0, 1]; resize and convert them"
            )
        return compiled(params, images)

    return run


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


def read_weights(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns the arrays of a safetensors file; "conv1_1/kernel" is at ["conv1_1"]["kernel"]."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")  # of the numbers; before them is JSON
    params: dict[str, dict[str, np.ndarray]] = {}
    try:
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                group, _, kind = name.partition("/")
                first, end = (start + offset for offset in entry["data_offsets"])
                array = np.frombuffer(data[first:end], _TYPES[entry["dtype"]])
                params.setdefault(group, {})[kind] = array.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageError(f"{path} holds no weights of a local NN; {_COPY}") from None
    return params


def trial(run: Callable[[Any], Any], image_size: int) -> np.ndarray:
    """Returns the mean of each channel, float32 [depth], over eight made-up images."""
    number, y, x, colour = np.ogrid[:8, :image_size, :image_size, :3]
    pattern = (x * y * (colour + 1) // (number + 1) + 40 * number * colour) % 251
    return np.asarray(run(np.float32(pattern / 250))).mean((0, 1, 2))


def convert(run: Callable[[Any], Any], source: str, target: str) -> None:
    """Writes the representations of a .npy file of images, uint8 or float32 [N, S, S, 3]."""
    images = np.load(source, mmap_mode="r")
    done = []
    for first in range(0, len(images), _BATCH):
        batch = images[first : first + _BATCH]
        batch = np.float32(batch) / np.float32(255) if batch.dtype == np.uint8 else batch
        if not (batch.min() >= 0 and batch.max() <= 1):
            raise PackageError(f"{source} goes beyond [0, 1]; divide 8-bit values by 255")
        done.append(np.asarray(run(batch)))
    with open(target, "wb") as file:
        np.save(file, np.concatenate(done))


def main(arguments: Sequence[str]) -> None:
    """Runs the package in this file's folder as the top of this file says."""
    if len(arguments) not in (0, 2):
        raise PackageError("give either nothing, or a file of images and a file to write")
    settings, run = open_package(Path(__file__).resolve().parent)
    if arguments:
        convert(run, *arguments)
        return
    size, shape = settings["image_size"], settings["shape"]
    expected = np.float32(settings["trial"])
    off = np.abs(trial(run, size) - expected).max() / max(expected.max(), 1e-6)
    if not off <= _TOLERANCE:
        raise PackageError(f"the network is off by {off:.1e} on this machine; update JAX")
    print(f"The package is whole and works: images {[size, size, 3]} to representations {shape}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as problem:  # what was raised here, or by NumPy for its files
        sys.exit(f"error: {problem}")
