"""What the benchmark measures with: its settings, networks, and random images and features.

`parts` times them. Values are random because no time depends on them; shapes
and networks are those of a characterisation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation.config import Config
from privynet_jax.images.parts import PART_NAMES, Part, Parts
from privynet_jax.platform.devices import Execution
from privynet_jax.results.cells import Cell
from privynet_jax.training import tasks as training_tasks
from privynet_jax.training.linear_attack import LinearAttack
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Task

CLASSES = 30


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is measured; defaults are the quickstart's.

    Attributes:
        layers: numbers of local convolution layers.
        image_size: side of images in pixels.
        depth: channels to which representations are padded.
        width: channels of the networks.
        blocks: residual blocks of the attacker.
        cloud_batch: the cloud NN's examples per step.
        attacker_batch: the attacker's.
        images: in each part of the random data.
        dispatches: per timed training.
        groups: of cells, for the cost of further ones.
    """

    layers: tuple[int, ...] = (2, 4, 7, 10)
    image_size: int = 32
    depth: int = 32
    width: int = 64
    blocks: int = 2
    cloud_batch: int = 32
    attacker_batch: int = 16
    images: int = 1000
    dispatches: int = 20
    groups: int = 3


def networks(setup: Setup) -> dict[str, Any]:
    """Returns the two networks that every cell trains, by name."""
    return {
        "cloud NN": cloud_nn(CLASSES, setup.image_size, setup.width),
        "attacker": attacker(setup.image_size, setup.width, setup.blocks),
    }


def tasks(setup: Setup, execution: Execution) -> dict[str, Task]:
    """Returns what the two networks learn, by name, for so many dispatches."""
    trained = networks(setup)
    steps = setup.dispatches * execution.steps_per_dispatch
    cloud = dataclasses.replace(Config.cloud, steps=steps, batch_size=setup.cloud_batch)
    attack = dataclasses.replace(Config.attacker, steps=steps, batch_size=setup.attacker_batch)
    return {
        "cloud NN": training_tasks.cloud_task(trained["cloud NN"], cloud),
        "attacker": training_tasks.attacker_task(trained["attacker"], attack),
    }


def no_attack(num_layers: int, setup: Setup) -> LinearAttack:
    """Returns a linear attack of the right shape that estimates nothing."""
    values = VGG16.cut(num_layers).stride ** 2 * 3
    return LinearAttack(
        np.zeros((3, 3, setup.depth, values), np.float32), np.zeros(values, np.float32)
    )


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
