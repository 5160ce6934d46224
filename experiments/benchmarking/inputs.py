"""Settings of `experiments.benchmark`, and random data like a characterisation's.

Images, features and parameters are random, because times do not depend on values.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax import Member, Topology, cloud_nn
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.images.parts import PART_NAMES, Part, Parts
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.tasks import Task, cloud_task

# Classes of the random images.
CLASSES = 30
CLOUD_NN = "cloud NN"
CLOUD_BATCH, ATTACKER_BATCH = 32, 16  # the quickstart's
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is measured; defaults are the quickstart's. The cloud NN has `width` channels."""

    layers: tuple[int, ...] = (2, 4, 7, 10)
    image_size: int = 32
    depth: int = 32
    width: int = 64
    images: int = 1000
    steps: int = 20
    compiled: bool = False  # whether `torch.compile` is a further peer
    peer_device: str = "cpu"  # PyTorch's name of where it computes
    # Of part `psnr`: where data and features are kept, and for how many times as long as the
    # attacker here, of so many steps, a peer tries to do as well.
    cache_dir: str = ""
    data_dir: str | None = None
    attacker_steps: int = 300
    times: float = 10.0


class Learnt(NamedTuple):
    """What one of a cell's networks learns: a task, and what it needs with random images."""

    task: Task
    batch_size: int
    targets: np.ndarray
    constants: Any


def learnt(setup: Setup, num_layers: int) -> dict[str, Learnt]:
    """Returns what a cell of so many layers trains, by name of the network."""
    network = cloud_nn(CLASSES, setup.image_size, setup.width)
    strong = CAPACITIES[STRONG].task(setup.image_size)
    values = VGG16.cut(num_layers).stride ** 2 * 3
    # As strong as a fitted one: estimates are about as large as pixels.
    stream, shape = np.random.default_rng(0), (3, 3, setup.depth, values)
    kernel = stream.standard_normal(shape, np.float32) * (9 * setup.depth) ** -0.5
    attack = LinearAttack(kernel, np.full(values, 0.5, np.float32))
    images = random_images(setup.images, setup.image_size)
    labels = np.arange(setup.images, dtype=np.int32) % CLASSES
    return {
        CLOUD_NN: Learnt(cloud_task(network), CLOUD_BATCH, labels, ()),
        STRONG: Learnt(strong, ATTACKER_BATCH, images, attack),
    }


def members(
    chosen: Sequence[Cell], layer: LayerFeatures, what: Learnt, factors: Sequence[float] = (1.0,)
) -> list[Member]:
    """Returns a network of each cell, once per multiple of the learning rate."""
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


def first_params(what: Learnt, member: Member) -> Any:
    """Returns a member's parameters before its training."""
    features = np.float32(member.inputs[: what.batch_size])
    return jax.jit(what.task.init)(member.key, features)


def random_images(count: int, size: int) -> np.ndarray:
    """Returns uint8 [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def random_parts(setup: Setup) -> Parts:
    """Returns four equal parts of random images."""
    images = random_images(setup.images, setup.image_size)
    part = Part(images, np.arange(setup.images, dtype=np.int32) % CLASSES)
    return Parts(*[part] * len(PART_NAMES), tuple(map(str, range(CLASSES))), "random", "")


def random_layer(num_layers: int, chosen: Sequence[Cell], setup: Setup) -> LayerFeatures:
    """Returns features like normalised ones: half of them zero, the others of about one size."""
    channels = needed_channels([cell.topology for cell in chosen])[num_layers]
    shape = Topology(num_layers, channels).representation_shape(setup.image_size)
    some = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    stored = np.resize(np.float16(np.maximum(some, 0)), (setup.images, *shape))
    scales = np.ones(len(channels), np.float32)
    return LayerFeatures(num_layers, channels, dict.fromkeys(PART_NAMES, stored), scales)
