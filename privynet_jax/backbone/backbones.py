"""Backbones as values: where a pretrained network can be split, and what lies before each cut.

Everything outside this package reads layer numbers, names, widths and strides here, and asks
`split` to compute. A backbone that is added, in its own table and network, is known to all.

    backbone = backbone_named("vgg16")
    backbone.cut(4)  # Cut(number=4, name="conv2_2", channels=128, stride=2, ...)

The VGGs are those of Simonyan and Zisserman, arXiv:1409.1556, table 1. No JAX here.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

from privynet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution with a bias; weight layouts, cost and cut parameters are read off it."""

    name: str  # of its parameters
    kernel: tuple[int, int, int, int]  # HWIO
    stride: int  # image pixels per output pixel along one axis, all that came before included

    @property
    def in_channels(self) -> int:
        """Channels that it reads."""
        return self.kernel[2]

    @property
    def out_channels(self) -> int:
        """Channels that it writes."""
        return self.kernel[3]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A point where the network can be split: what it puts out there may be released."""

    number: int  # from 1, in the order of computation
    name: str  # as the network's authors or users call it, `conv2_2`
    channels: int  # of the output there
    stride: int  # image pixels per output pixel along one axis
    convolutions: tuple[Convolution, ...]  # since the cut before; the last one writes the output


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained network that can be split."""

    name: str  # in flags and files, `vgg16`
    title: str  # in texts, `VGG16`
    network: str  # the kind of network, by which `split` finds what computes it
    cuts: tuple[Cut, ...]  # from the image on

    def cut(self, number: Any) -> Cut:
        """Returns a cut by its number, or raises UserError where there is none."""
        if not is_integer(number) or not 1 <= number <= len(self.cuts):
            raise UserError(
                f"num_layers is {number!r}; allowed are the integers 1 to {len(self.cuts)}; "
                f"give the number of {self.title} layers that run locally"
            )
        return self.cuts[number - 1]

    def convolutions(self, number: int | None = None) -> tuple[Convolution, ...]:
        """Returns all convolutions up to a cut; up to the last one by default."""
        return tuple(step for cut in self.cuts[:number] for step in cut.convolutions)


def is_integer(value: Any) -> bool:
    """Whether something is an integer, NumPy's included."""
    # bool is an Integral too, and always a mistake here.
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _vgg(blocks: Sequence[int]) -> Backbone:
    """A VGG by its convolutions per block; a 2x2 max-pool separates neighbouring blocks."""
    cuts: list[Cut] = []
    channels = 3
    for block, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512, 512), strict=True)):
        for index in range(count):
            name, stride = f"conv{block + 1}_{index + 1}", 2**block
            convolution = Convolution(name, (3, 3, channels, width), stride)
            cuts.append(Cut(len(cuts) + 1, name, width, stride, (convolution,)))
            channels = width
    depth = len(cuts) + 3  # the paper counts the classifier's layers too
    return Backbone(f"vgg{depth}", f"VGG{depth}", "vgg", tuple(cuts))


# Columns A, B, D and E of the paper's table 1.
VGG11, VGG13 = _vgg((1, 1, 2, 2, 2)), _vgg((2, 2, 2, 2, 2))
VGG16, VGG19 = _vgg((2, 2, 3, 3, 3)), _vgg((2, 2, 4, 4, 4))
BACKBONES = {backbone.name: backbone for backbone in (VGG11, VGG13, VGG16, VGG19)}
DEFAULT = VGG16.name


def backbone_named(name: str) -> Backbone:
    """Returns a backbone, or raises UserError where none has this name."""
    if name not in BACKBONES:
        raise UserError(
            f"backbone is {name!r}; allowed are {', '.join(BACKBONES)}; give one of them"
        )
    return BACKBONES[name]
