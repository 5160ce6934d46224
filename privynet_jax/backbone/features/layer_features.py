"""Features: the representations of all images at the layers and channels that a grid needs.

Here is the pure function that makes them, in one pass per image, and what `feature_cache` returns.

    union = needed_channels([cell.topology for cell in cells])
    features = jax.jit(extractor(backbone, union))(params, images)  # {2: [N, 32, 32, 40], 4: ...}

Values are normalised: each channel is divided by its root mean square over the first auxiliary
images. Post-ReLU zeros stay zeros, networks of all layers meet one scale, and a VGG's activations
(near the largest float16 in middle layers) fit into float16.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.backbones import Backbone
from privynet_jax.backbone.split import activations
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.row_views import RowView

# Auxiliary images over which a channel's root mean square is taken.
CALIBRATION_IMAGES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class LayerFeatures:
    """Normalised representations of all parts at one layer."""

    num_layers: int  # 0 stands for the images themselves, the reference without a split
    channels: tuple[int, ...]  # which of the layer's channels are cached, ascending
    # Part name -> float16 [N, h, w, len(channels)] (float32 if the cache holds that), an array or
    # what reads rows from disk as they are asked for (`shards.ShardedRows`).
    parts: Mapping[str, Any]
    scales: np.ndarray  # float32 [len(channels)], what each channel was multiplied by

    def positions(self, channels: Sequence[int]) -> np.ndarray:
        """Returns where a topology's channels lie in the cached ones, int [depth], in their order.

        ValueError: one of them is not cached.
        """
        places = {channel: place for place, channel in enumerate(self.channels)}
        if not places.keys() >= set(channels):
            raise ValueError(f"Expected channels out of {self.channels}, got {tuple(channels)}")
        return np.array([places[channel] for channel in channels], int)


def needed_channels(topologies: Sequence[Topology]) -> dict[int, tuple[int, ...]]:
    """Returns layer -> the union of the channels that the topologies release there, ascending."""
    union: dict[int, set[int]] = {}
    for topology in topologies:
        union.setdefault(topology.num_layers, set()).update(topology.channels)
    return {num_layers: tuple(sorted(union[num_layers])) for num_layers in sorted(union)}


class _NormalisedImages(RowView):
    """Images that become float16 representations, `images * scale`, as they are read."""

    def __init__(self, images: np.ndarray, scale: np.ndarray) -> None:
        super().__init__(images.shape, np.float16)
        self._images, self._scale = images, scale

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return np.float16(as_float(self._images[numbers]) * self._scale)


def image_features(parts: Parts) -> LayerFeatures:
    """Returns the images themselves in the form of a layer, normalised in the same way."""
    calibration = as_float(parts.auxiliary.images[:CALIBRATION_IMAGES])
    scale = 1 / np.sqrt(np.mean(np.square(calibration), axis=(0, 1, 2)))
    arrays = {name: _NormalisedImages(part.images, scale) for name, part in parts.items()}
    return LayerFeatures(0, (0, 1, 2), arrays, scale)


def extractor(
    backbone: Backbone, union: Mapping[int, Sequence[int]]
) -> Callable[[Any, jax.Array], dict[int, jax.Array]]:
    """Returns a pure function (params, images) -> layer -> features, not normalised.

    Images are float32 [N, H, W, 3], features float32 [N, h, w, channels kept].
    """

    def of_one_image(params: Any, image: jax.Array) -> dict[int, jax.Array]:
        found = activations(backbone, params, image[None], union)
        return {layer: _chosen(found[layer][0], channels) for layer, channels in union.items()}

    return jax.vmap(of_one_image, in_axes=(None, 0))


def _chosen(x: jax.Array, channels: Sequence[int]) -> jax.Array:
    if tuple(channels) == tuple(range(x.shape[-1])):
        return x  # choosing all of them would still copy them
    return x[..., np.asarray(channels)]
