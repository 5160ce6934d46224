"""What the benchmark measures with: its settings, networks, and random images and features.

`parts` times them. Values are random because no time depends on them; shapes
and networks are those of a characterisation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from privynet_jax import Member, Topology, cloud_nn
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.images.parts import PART_NAMES, Part, Parts
from privynet_jax.platform.row_views import ChosenChannels
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.tasks import Task, cloud_task

CLASSES = 30


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is measured; defaults are the quickstart's.

    Attributes:
        layers: numbers of local convolution layers.
        image_size: side of images in pixels.
        depth: channels to which representations are padded.
        width: channels of the cloud NN.
        cloud_batch: the cloud NN's examples per step.
        attacker_batch: the attacker's.
        images: in each part of the random data.
        steps: of a timed training.
    """

    layers: tuple[int, ...] = (2, 4, 7, 10)
    image_size: int = 32
    depth: int = 32
    width: int = 64
    cloud_batch: int = 32
    attacker_batch: int = 16
    images: int = 1000
    steps: int = 20


class Learnt(NamedTuple):
    """What one of a cell's networks learns: a task, and what it needs with random images."""

    task: Task
    batch_size: int
    targets: np.ndarray
    constants: Any


def learnt(setup: Setup, num_layers: int, parts: Parts) -> dict[str, Learnt]:
    """Returns what the two networks of a cell learn, by name."""
    network = cloud_nn(CLASSES, setup.image_size, setup.width)
    strong = CAPACITIES[STRONG].task(setup.image_size)
    values = VGG16.cut(num_layers).stride ** 2 * 3
    kernel = np.zeros((3, 3, setup.depth, values), np.float32)
    attack = LinearAttack(kernel, np.zeros(values, np.float32))  # of the right shape
    return {
        "cloud NN": Learnt(cloud_task(network), setup.cloud_batch, parts.target.labels, ()),
        STRONG: Learnt(strong, setup.attacker_batch, parts.auxiliary.images, attack),
    }


def members(
    chosen: Sequence[Cell], layer: LayerFeatures, what: Learnt, factors: Sequence[float] = (1.0,)
) -> list[Member]:
    """Returns a member per cell and factor of the learning rate."""
    stored = layer.parts["target"]
    width = chosen[0].topology.depth
    return [
        Member(
            key=training_key(cell, 0),
            inputs=ChosenChannels(stored, layer.positions(cell.topology.channels), width),
            targets=what.targets,
            rows=np.arange(len(what.targets)),
            learning_rate=1e-3 * factor,
            constants=what.constants,
        )
        for cell in chosen
        for factor in factors
    ]


def random_images(count: int, size: int) -> np.ndarray:
    """Returns uint8 [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def random_parts(setup: Setup) -> Parts:
    """Returns four parts that are one and the same random images."""
    images = random_images(setup.images, setup.image_size)
    part = Part(images, np.arange(setup.images, dtype=np.int32) % CLASSES)
    return Parts(part, part, part, part, tuple(map(str, range(CLASSES))), "random", "random")


def random_layer(num_layers: int, chosen: Sequence[Cell], setup: Setup) -> LayerFeatures:
    """Features like normalised ones: half of them zero, the others of about one size."""
    channels = needed_channels([cell.topology for cell in chosen])[num_layers]
    shape = Topology(num_layers, channels).representation_shape(setup.image_size)
    some = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    stored = np.resize(np.float16(np.maximum(some, 0)), (setup.images, *shape))
    scales = np.ones(len(channels), np.float32)
    return LayerFeatures(num_layers, channels, dict.fromkeys(PART_NAMES, stored), scales)
