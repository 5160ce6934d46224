"""Which part of a backbone a device runs, which channels it releases, and what that costs it.

    topology = Topology(num_layers=4, channels=(3, 17, 90))
    topology.layer.name                # "conv2_2"
    topology.representation_shape(32)  # (16, 16, 3)
    local_cost(topology, image_size=32).macs

The planner chooses one. No JAX here.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from privynet_jax.backbone.backbones import DEFAULT, Backbone, Cut, backbone_named, is_integer
from privynet_jax.errors import UserError

# The selection that draws from all channels of a layer; `selection` has the others.
RANDOM = "random"
PRUNING_METHODS = (RANDOM, "fisher", "privacy", "both")
# The best subset that a search finds, so nothing is drawn; see `selection.search`.
DIRECT = "direct"
METHODS = (*PRUNING_METHODS, DIRECT)
_BYTES = 4  # of a float32, for parameters and activations


@dataclasses.dataclass(frozen=True)
class Topology:
    """A backbone up to its cut point `num_layers`, releasing `channels` of what it puts out there.

    Attributes:
        num_layers: layers that run locally, the number of a cut: 1 to 13 of VGG16.
        channels: indices into the last layer's output, each once, in the order of release. Any
            sequence of integers is accepted and stored as a tuple of `int`, so that topologies
            compare, hash and serialise.
        backbone: name of the network, one of `backbones.BACKBONES`.

    Raises:
        UserError: there is no such backbone, or a number is out of range, no integer, or given
            twice.
    """

    num_layers: int
    channels: tuple[int, ...]
    backbone: str = DEFAULT

    def __post_init__(self) -> None:
        # Frozen dataclasses offer no other way to normalise a field.
        cut = backbone_named(self.backbone).cut(self.num_layers)
        object.__setattr__(self, "num_layers", cut.number)
        object.__setattr__(self, "channels", _checked_channels(self.channels, cut))

    @property
    def depth(self) -> int:
        """How many channels are released, D' in the paper."""
        return len(self.channels)

    @property
    def layer(self) -> Cut:
        """The cut point, whose output is released."""
        return backbone_named(self.backbone).cut(self.num_layers)

    def representation_shape(self, image_size: int) -> tuple[int, int, int]:
        """Returns `(height, width, depth)` of one square image's representation.

        UserError: it has so few pixels that pooling leaves nothing at this layer.
        """
        check_image_size(self.layer, image_size, image_size)
        # Halving with floor, repeated, equals one floor division by the product.
        side = image_size // self.layer.stride
        return side, side, self.depth


def check_image_size(cut: Cut, height: int, width: int) -> None:
    """Raises UserError unless images of this size leave at least one pixel at a cut."""
    if min(height, width) < cut.stride:
        raise UserError(
            f"images are {height}x{width} pixels; {cut.name} needs at least "
            f"{cut.stride}x{cut.stride}; use larger images or fewer local layers"
        )


def _checked_channels(channels: Iterable[Any], cut: Cut) -> tuple[int, ...]:
    allowed = f"allowed are distinct integers 0 to {cut.channels - 1} of {cut.name}"
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise UserError(f"channels is {channels!r}; {allowed}; give a tuple of channel indices")
    given = tuple(channels)
    if not given:
        raise UserError(f"channels is empty; {allowed}; release at least one channel")
    if wrong := [c for c in given if not is_integer(c) or not 0 <= c < cut.channels]:
        raise UserError(f"channels contain {_shortened(wrong)}; {allowed}; remove or replace them")
    if twice := sorted(c for c, count in collections.Counter(given).items() if count > 1):
        raise UserError(f"channels repeat {_shortened(twice)}; {allowed}; give each channel once")
    return tuple(int(c) for c in given)


def _shortened(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"


def all_channels(layers: Sequence[int], backbone: Backbone) -> dict[int, tuple[int, ...]]:
    """Returns layer -> all its channels, layers ascending."""
    cuts = sorted({backbone.cut(layer) for layer in layers}, key=lambda cut: cut.number)
    if not cuts:
        raise UserError(
            f"no layer is given; allowed are the integers 1 to {len(backbone.cuts)} of "
            f"{backbone.title}; give at least one"
        )
    return {cut.number: tuple(range(cut.channels)) for cut in cuts}


def check_depth(depth: int, channels: int) -> None:
    """Raises UserError unless so many channels can be drawn from so many."""
    if not 1 <= depth <= channels:
        raise UserError(
            f"{depth} channels cannot be drawn from {channels}; allowed are 1 to {channels}; "
            "release another number or prune less"
        )


@dataclasses.dataclass(frozen=True)
class LocalCost:
    """The cost of one local NN on one image.

    Attributes:
        macs: multiply-accumulates.
        param_bytes: of the kernels and biases that the device stores.
        peak_activation_bytes: the most activation memory alive at once.
        release_bytes: of the representation.
    """

    macs: int
    param_bytes: int
    peak_activation_bytes: int
    release_bytes: int


def local_cost(topology: Topology, image_size: int) -> LocalCost:
    """Returns the cost of a topology's local NN, in which only released channels are computed.

    For each convolution, with an h x w output (and input: SAME padding), `cin` input channels,
    `cout` output channels (the topology's depth for the last one), and a kernel of `k` pixels:

        MACs               h * w * k * cin * cout
        parameters         k * cin * cout + cout
        activations alive  h * w * (cin + cout)

    MACs and parameters are summed over the layers; taps that fall on padding count, while biases,
    ReLU, pooling and the input transform (9 parameters) do not. Activations are the maximum over
    the layers: a layer's input and output are alive together, ReLU works in place, and pooling,
    which writes a quarter of what the convolution before it does, never sets the maximum, because
    that convolution reads at least a quarter of what it writes (another backbone has to keep
    cin >= cout / 4 before pooling). Workspace of a convolution algorithm is not counted.

    Images are `image_size` pixels high and wide; UserError is raised where they are too small.
    """
    height, width, depth = topology.representation_shape(image_size)
    macs = parameters = peak_values = 0
    layers = backbone_named(topology.backbone).convolutions(topology.num_layers)
    for layer in layers:
        outputs = depth if layer is layers[-1] else layer.out_channels
        pixels = (image_size // layer.stride) ** 2
        taps = math.prod(layer.kernel[:3]) * outputs
        macs += pixels * taps
        parameters += taps + outputs
        peak_values = max(peak_values, pixels * (layer.in_channels + outputs))
    return LocalCost(
        macs=macs,
        param_bytes=parameters * _BYTES,
        peak_activation_bytes=peak_values * _BYTES,
        release_bytes=height * width * depth * _BYTES,
    )
