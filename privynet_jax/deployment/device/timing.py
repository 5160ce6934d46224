"""Measures on a device the networks of a folder that `timing_kit` made; no JAX here."""

import dataclasses
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Count, Text, read_document, write_document
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, OnnxRun, machine
from privynet_jax.platform.progress import Bar
from privynet_jax.results.latencies import Latencies, Latency

_KIT, _VERSION = "timing.json", 1
_AGAIN = "copy the folder again that experiments.export_timing wrote"


@dataclasses.dataclass(frozen=True)
class Kit:
    """Which networks the folder holds, by layers and released channels."""

    backbone: Text
    image_size: Count
    shapes: tuple[tuple[Count, Count], ...]

    def __post_init__(self) -> None:
        if not self.shapes:
            raise UserError("it lists no network")

    def file_of(self, num_layers: int, depth: int) -> str:
        """Returns the name of a network's file."""
        return f"{num_layers:02d}-{depth:03d}.onnx"

    def write(self, folder: Path) -> None:
        """Writes it whole."""
        write_document(folder / _KIT, self, _VERSION)


def is_kit(folder: Path) -> bool:
    """Whether a folder is for timing, be it damaged or not."""
    return (folder / _KIT).is_file()


def time_kit(folder: Path) -> Latencies:
    """Returns how long each network takes on one image, on one thread; UserError if damaged."""
    kit = read_document(folder / _KIT, Kit, _VERSION, _AGAIN, what="list of networks")
    image = np.zeros((1, kit.image_size, kit.image_size, 3), np.uint8)
    networks = []
    for num_layers, depth in Bar(kit.shapes, "measuring", unit="network", delay=1):
        path = folder / kit.file_of(num_layers, depth)
        if not path.is_file():
            raise UserError(f"{path} is missing; {_AGAIN}")
        network = OnnxRun(path, _AGAIN, threads=1)
        if network.shapes.get(IMAGES) != ("N", *image.shape[1:]):
            raise UserError(f"{path} is no network for timing; {_AGAIN}")
        networks.append(Latency(num_layers, depth, network.milliseconds({IMAGES: image})))
    return Latencies(machine(), kit.backbone, kit.image_size, tuple(networks))
