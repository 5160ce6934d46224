"""VGG16's table of convolutions, and which part of it a device runs and releases.

A `Topology` is what the planner chooses: how many convolution layers run where the images are, and
which channels of the last one are released. Every other room reads layer widths and strides here.

    topology = Topology(num_layers=4, channels=(3, 17, 90))
    topology.depth                     # 3
    topology.layer.name                # "conv2_2"
    topology.representation_shape(32)  # (16, 16, 3)
"""

import dataclasses
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from privynet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """One 3x3 convolution of VGG16.

    Attributes:
        name: the usual VGG name, `conv{block}_{index}`, both counted from 1.
        in_channels: channels that the convolution reads.
        out_channels: channels that it writes.
        stride: image pixels per output pixel along one axis, all pooling so far included.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int


# (convolutions, width) per block; a 2x2 max-pool separates neighbouring blocks
# (Simonyan and Zisserman, arXiv:1409.1556, table 1, column D).
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def _conv_layers() -> tuple[ConvLayer, ...]:
    layers: list[ConvLayer] = []
    in_channels = 3
    for block, (count, width) in enumerate(_BLOCKS):
        for index in range(count):
            name = f"conv{block + 1}_{index + 1}"
            layers.append(ConvLayer(name, in_channels, width, 2**block))
            in_channels = width
    return tuple(layers)


CONV_LAYERS = _conv_layers()


@dataclasses.dataclass(frozen=True)
class Topology:
    """The first `num_layers` convolutions of VGG16, releasing `channels` of the last one.

    Attributes:
        num_layers: convolution layers that run locally, 1 to 13.
        channels: indices into the last layer's output, each once. The order is kept, because it is
            the order in which channels are released. Any sequence of integers is accepted and
            stored as a tuple of `int`, so that topologies compare, hash and serialise.

    Raises:
        UserError: `num_layers` or a channel out of range or not an integer, no channel at all, or
            a channel given twice.
    """

    num_layers: int
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        # The fields are normalised once here; frozen dataclasses offer no other way to do that.
        object.__setattr__(self, "num_layers", checked_num_layers(self.num_layers))
        object.__setattr__(self, "channels", _checked_channels(self.channels, self.layer))

    @property
    def depth(self) -> int:
        """How many channels are released, D' in the paper."""
        return len(self.channels)

    @property
    def layer(self) -> ConvLayer:
        """The last local convolution, whose output is released."""
        return CONV_LAYERS[self.num_layers - 1]

    def representation_shape(self, image_size: int) -> tuple[int, int, int]:
        """Returns the representation's shape `(height, width, depth)` for one square image.

        Args:
            image_size: height and width of the image in pixels.

        Raises:
            UserError: the image is so small that pooling leaves nothing at this layer.
        """
        check_image_size(self.num_layers, image_size, image_size)
        # Halving with floor, repeated, equals one floor division by the product.
        side = image_size // self.layer.stride
        return side, side, self.depth


# The selection that draws from all channels of a layer; `selection` has the others.
RANDOM = "random"
PRUNING_METHODS = (RANDOM, "fisher", "privacy", "both")
# The best subset that a search finds, so nothing is drawn; see `selection.search`.
DIRECT = "direct"
METHODS = (*PRUNING_METHODS, DIRECT)


def checked_num_layers(num_layers: Any) -> int:
    """Returns `num_layers` as an `int`, or raises UserError unless it is one from 1 to 13."""
    if not _is_integer(num_layers) or not 1 <= num_layers <= len(CONV_LAYERS):
        raise UserError(
            f"num_layers is {num_layers!r}; allowed are the integers 1 to {len(CONV_LAYERS)}; "
            "give the number of VGG16 convolution layers that run locally"
        )
    return int(num_layers)


def check_image_size(num_layers: int, height: int, width: int) -> None:
    """Raises UserError unless images of this size leave at least one pixel after `num_layers`."""
    layer = CONV_LAYERS[num_layers - 1]
    if min(height, width) < layer.stride:
        raise UserError(
            f"images are {height}x{width} pixels; {layer.name} needs at least "
            f"{layer.stride}x{layer.stride}; use larger images or fewer local layers"
        )


def _is_integer(value: Any) -> bool:
    # numbers.Integral admits NumPy's integers; bool is an Integral too, and always a mistake here.
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_channels(channels: Iterable[Any], layer: ConvLayer) -> tuple[int, ...]:
    allowed = f"allowed are distinct integers 0 to {layer.out_channels - 1} of {layer.name}"
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise UserError(f"channels is {channels!r}; {allowed}; give a tuple of channel indices")
    given = tuple(channels)
    if not given:
        raise UserError(f"channels is empty; {allowed}; release at least one channel")
    wrong = [c for c in given if not _is_integer(c) or not 0 <= c < layer.out_channels]
    if wrong:
        raise UserError(f"channels contain {_shortened(wrong)}; {allowed}; remove or replace them")
    twice = sorted({c for c in given if given.count(c) > 1}) if len(set(given)) < len(given) else []
    if twice:
        raise UserError(f"channels repeat {_shortened(twice)}; {allowed}; give each channel once")
    return tuple(int(c) for c in given)


def _shortened(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"


def all_channels(layers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Returns layer -> all its channels."""
    numbers = sorted({checked_num_layers(layer) for layer in layers})
    if not numbers:
        raise UserError("no layer is given; allowed are the integers 1 to 13; give at least one")
    return {m: tuple(range(CONV_LAYERS[m - 1].out_channels)) for m in numbers}


def check_depth(depth: int, channels: int) -> None:
    """Raises UserError unless so many channels can be drawn from so many."""
    if not 1 <= depth <= channels:
        raise UserError(
            f"{depth} channels cannot be drawn from {channels}; allowed are 1 to {channels}; "
            "release another number or prune less"
        )
