"""What a device measured of networks that might run there: `latency.json`.

    measured = read_latencies(Path("latency.json"))
    measured.of("vgg16", 32, num_layers=4, depth=16)  # milliseconds
    measured.where  # the device, in words

No JAX here: devices write it.
"""

import dataclasses
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Count, Positive, Text, read_document, write_document

_VERSION = 1
_AGAIN = "measure again on the device, with privynet.pyz time"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Of one network: layers that run locally, released channels, and milliseconds of an image."""

    num_layers: Count
    depth: Count
    milliseconds: Positive


@dataclasses.dataclass(frozen=True)
class Latencies:
    """All that a device measured.

    Attributes:
        where: the device, in words.
        backbone: of the networks.
        image_size: side of the images, in pixels.
        networks: that were measured.
    """

    where: Text
    backbone: Text
    image_size: Count
    networks: tuple[Latency, ...]

    def of(self, backbone: str, image_size: int, num_layers: int, depth: int) -> float:
        """Returns milliseconds of one image; UserError where such a network was not measured."""
        if (backbone, image_size) != (self.backbone, self.image_size):
            raise UserError(
                f"--latency is of {self.backbone} on images of {self.image_size} pixels, and this "
                f"is {backbone} on images of {image_size}; {_AGAIN}, in a folder that "
                "experiments.export_timing made of this --workdir"
            )
        found = [n for n in self.networks if (n.num_layers, n.depth) == (num_layers, depth)]
        if not found:
            raise UserError(
                f"--latency has nothing of {num_layers} layers with {depth} channels; {_AGAIN}, in "
                "a folder that experiments.export_timing made of this --workdir"
            )
        return found[0].milliseconds

    def write(self, path: Path) -> None:
        """Writes it whole."""
        write_document(path, self, _VERSION)


def read_latencies(path: Path) -> Latencies:
    """Returns what a device wrote; UserError where that is not what it wrote."""
    try:
        return read_document(path, Latencies, _VERSION, _AGAIN, what="list of latencies")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {_AGAIN}") from None
