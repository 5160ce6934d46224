"""Features: the representations of all images at the layers and channels that a grid needs.

Here is the pure function that makes them, in one pass per image, and what `feature_cache` returns.

    union = needed_channels([cell.topology for cell in cells])
    features = jax.jit(extractor(backbone, union))(params, images)  # {2: [N, 32, 32, 40], 4: ...}

Values are normalised: each channel is divided by its root mean square over the first auxiliary
images. Post-ReLU zeros stay zeros, networks of all layers meet one scale, and a VGG's activations
(near the largest float16 in middle layers) fit into float16.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.backbones import Backbone
from privynet_jax.backbone.split import TILES, activations
from privynet_jax.backbone.topology import Topology, check_image_size
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.rows.row_views import RowView

# Auxiliary images over which a channel's root mean square is taken.
CALIBRATION_IMAGES = 512
# A CPU core is at its best while what it has in hand stays in its cache: so many bytes of the first
# layer, 64 channels of float32. Kernels of more numbers, input times output channels, do not stay
# there, and are fetched once for many images.
_FEW_BYTES, _NARROW = 2**19, 2**14


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
    backbone: Backbone,
    union: Mapping[int, Sequence[int]],
    finish: Callable[[int, jax.Array], jax.Array] = lambda _, features: features,
) -> Callable[[Any, jax.Array], dict[int, jax.Array]]:
    """Returns a pure function (params, images) -> layer -> features, not normalised.

    Images are float32 [N, H, W, 3], features float32 [N, h, w, channels kept], or what `finish`
    makes of a layer's number and one image's features. With `split.with_tiles`, the first layers
    compute a few images after the other.
    """
    deepest = max(union)
    kernels = [math.prod(cut.convolutions[-1].kernel[2:]) for cut in backbone.cuts]
    narrow = min(deepest, sum(size <= _NARROW for size in kernels))

    def of_one_image(after: int, last: int, params: Any, x: jax.Array) -> Any:
        kept = [layer for layer in union if after < layer <= last]
        found = activations(backbone, params, x[None], {*kept, last}, after)
        chosen = {m: finish(m, _chosen(found[m][0], union[m])) for m in kept}
        return found[last][0] if last < deepest else None, chosen

    def extract(params: Any, images: jax.Array) -> dict[int, jax.Array]:
        check_image_size(backbone.cut(deepest), *images.shape[1:3])
        few = max(1, _FEW_BYTES // (64 * 4 * math.prod(images.shape[1:3])))
        first = (0, narrow, math.gcd(few, len(images))) if TILES in params else (0, 0, 1)
        x, found = images, {}
        for after, last, at_once in (first, (first[1], deepest, len(images))):
            if after < last:
                function = functools.partial(of_one_image, after, last, params)
                x, chosen = _by_groups(function, x, at_once)
                found |= chosen
        return {layer: found[layer] for layer in union}

    return extract


def _by_groups(function: Callable[[jax.Array], Any], x: jax.Array, at_once: int) -> Any:
    if at_once == len(x):
        return jax.vmap(function)(x)
    return jax.lax.map(function, x, batch_size=at_once)


def _chosen(x: jax.Array, channels: Sequence[int]) -> jax.Array:
    if tuple(channels) == tuple(range(x.shape[-1])):
        return x  # choosing all of them would still copy them
    return x[..., np.asarray(channels)]
