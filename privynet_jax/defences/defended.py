"""A defended local NN, and the representations that it would release of all parts of the data.

    local = defended_local_nn(weights.params, topology, scales, defence)
    released = jax.jit(local)(key, images, rows)  # float32 [N, h, w, D], normalised

    features = defended_features(layer, parts, [topology], defence, [key])
    x = features.gather("target", rows, features.positions(topology.channels), topology.depth)

A release is made once. Target, validation and test images therefore have one draw of randomness
each, the same whoever looks. An attacker who can make pairs makes as many as he likes: auxiliary
images are there in several copies, each with randomness of its own, as many as a training takes
(`several_copies`), so that he hardly ever meets the same draw twice. That makes him stronger than
one who owns a single release of his images.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.split import Params, local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.defences.mechanisms import Defence, defend, image_keys
from privynet_jax.images.parts import PART_NAMES, Part, Parts, as_float
from privynet_jax.platform.row_views import Blocks, RowView
from privynet_jax.training.tasks import Schedule

# More copies than these are drawn again from the start.
MOST_COPIES = 8
_CALIBRATION_ROWS = 256
# Images that are defended at once, always as many: every other number would be compiled anew.
_BATCH = 16

_defend = jax.jit(defend, static_argnums=0)


def defended_local_nn(
    params: Params, topology: Topology, scales: np.ndarray, defence: Defence
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Returns what a device would run: a pure function that can be jitted and exported.

    Args:
        params: all of the backbone's parameters, as `weights.load_weights` gives them.
        topology: which layers run and which channels are released.
        scales: float32 [depth], which normalise the channels.
        defence: what is done to images and representations.

    Returns:
        A function of (key, images, rows): the release's secret key; float32 [N, H, W, 3] in [0, 1];
        int [N], each image's row in the release, from which its randomness comes. It returns the
        normalised, defended representation, float32 [N, h, w, depth].

    Raises:
        UserError: the parameters do not fit the topology.
    """
    return _around(normalised_local_nn(params, topology, scales), defence)


def normalised_local_nn(
    params: Params, topology: Topology, scales: np.ndarray
) -> Callable[[jax.Array], jax.Array]:
    """Returns images -> normalised representation; arguments as for `defended_local_nn`."""
    local = local_nn(params, topology)
    return lambda images: local(images) * scales


def _around(
    local: Callable[[jax.Array], jax.Array], defence: Defence
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    def release(key: jax.Array, images: jax.Array, rows: jax.Array) -> jax.Array:
        before, _ = image_keys(key, rows)
        representations = local(jax.vmap(defence.of_image)(before, images))
        return defend(defence, key, representations, rows)

    return release


def several_copies(parts: Parts, copies: int) -> Parts:
    """Returns parts with several copies of each auxiliary image, image by image.

    So that who holds out the last images holds out all of their copies.
    """
    images, labels = parts.auxiliary.images, parts.auxiliary.labels
    repeated = Part(np.repeat(images, copies, axis=0), np.repeat(labels, copies))
    return dataclasses.replace(parts, auxiliary=repeated)


def copies_for(schedule: Schedule, images: int) -> int:
    """Returns how many copies of an attacker's images a training takes, at most `MOST_COPIES`."""
    return min(MOST_COPIES, max(1, -(-schedule.steps * schedule.batch_size // images)))


@dataclasses.dataclass(frozen=True, eq=False)
class DefendedFeatures(LayerFeatures):
    """Defended representations of several topologies of one layer, in the form of a layer.

    A defence sees the released channels together (their norm, for one), so topologies that share
    channels share nothing here: each has its own block of them.

    Attributes:
        scales: float32, those of the layer in each block: what the defence was applied to.
        topologies: of one layer and depth.
    """

    topologies: tuple[Topology, ...] = ()

    def positions(self, channels: Sequence[int]) -> np.ndarray:
        """Returns where a topology's defended channels lie, int [depth]."""
        block = [topology.channels for topology in self.topologies].index(tuple(channels))
        depth = self.topologies[block].depth
        return block * depth + np.arange(depth)


def defended_features(
    layer: LayerFeatures,
    parts: Parts,
    topologies: Sequence[Topology],
    defence: Defence,
    keys: Sequence[jax.Array],
    *,
    copies: int = 1,
    local: Sequence[Callable[[jax.Array], jax.Array]] = (),
) -> DefendedFeatures:
    """Returns what is released of all parts; nothing is computed before it is read.

    Args:
        layer: normalised representations without a defence.
        parts: the images that they were made of, each once.
        topologies: different, of the layer, and of one depth.
        defence: which.
        keys: of the topologies' releases, so that each is the same whatever stands beside it.
        copies: of auxiliary images, each with its own randomness; row r is image r // copies.
        local: per topology images -> normalised representation; needed for defences that change the
            image, whose representations no cache has.

    Returns:
        Representations brought to a root mean square of 1 by one public number per topology, taken
        from auxiliary images, because clipping and noise change it.

    Raises:
        ValueError: topologies of several depths, or not as many keys; or `local` is missing.
    """
    if len({topology.depth for topology in topologies}) != 1:
        raise ValueError(f"Expected topologies of one depth, got {topologies}.")
    if len(keys) != len(topologies):
        raise ValueError(
            f"Expected a key for each of {len(topologies)} topologies, got {len(keys)}."
        )
    if defence.changes_image and len(local) != len(topologies):
        raise ValueError(f"Expected `local` of every topology for {defence}, got {len(local)}.")
    release = _Release(layer, parts, tuple(topologies), defence, tuple(keys), copies, tuple(local))
    arrays: dict[str, Any] = {}
    for name, part in parts.items():
        shape = (
            len(part) * release.copies_of(name),
            *layer.parts[name].shape[1:3],
            len(topologies) * topologies[0].depth,
        )
        arrays[name] = DefendedRows(release, name, shape)
    released = [layer.positions(topology.channels) for topology in topologies]
    scales = layer.scales[np.concatenate(released)]
    return DefendedFeatures(
        layer.num_layers, tuple(range(shape[-1])), arrays, scales, tuple(topologies)
    )


class DefendedRows(RowView):
    """Rows of one part that are defended as they are read; the same row is always the same."""

    def __init__(self, release: "_Release", part: str, shape: tuple[int, ...]) -> None:
        """Reads from a release rows of a shape [N, h, w, topologies * depth]."""
        super().__init__(shape, np.float32)
        self._release, self._part = release, part

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of all topologies, side by side."""
        blocks = range(len(self._release.topologies))
        return np.concatenate([self._release(b, self._part, numbers) for b in blocks], axis=-1)

    def select(self, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
        """As `RowView.select`; computes nothing but the topology of the channels."""
        depth = self._release.topologies[0].depth
        chosen = self._numbers(which)
        places = np.asarray(positions) // depth
        for block in np.unique(places):
            if not (places == block).all():
                raise ValueError(f"Expected channels of one topology, got positions {positions}.")
            values = self._release(int(block), self._part, chosen)
            yield slice(None), values[..., np.asarray(positions) % depth]


@dataclasses.dataclass(frozen=True, eq=False)
class _Release:
    """Everything that is released of some topologies, computed row by row."""

    layer: LayerFeatures
    parts: Parts
    topologies: tuple[Topology, ...]
    defence: Defence
    keys: tuple[jax.Array, ...]
    copies: int
    local: tuple[Callable[[jax.Array], jax.Array], ...]

    def __call__(self, block: int, part: str, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [n, h, w, depth] of a topology."""
        return self._defended(block, part, rows) / self._root_mean_squares[block]

    def copies_of(self, part: str) -> int:
        """Returns how many rows there are of each image of a part."""
        return self.copies if part == "auxiliary" else 1

    @functools.cached_property
    def _root_mean_squares(self) -> list[np.float32]:
        # The first copy of different images.
        rows = self.copies * np.arange(min(_CALIBRATION_ROWS, len(self.parts.auxiliary)))
        found = [self._defended(b, "auxiliary", rows) for b in range(len(self.topologies))]
        # Where all is zero it stays so.
        return [np.float32(np.sqrt(np.mean(np.square(x, dtype=np.float64))) or 1.0) for x in found]

    def _defended(self, block: int, part: str, rows: np.ndarray) -> np.ndarray:
        key = jax.random.fold_in(self.keys[block], PART_NAMES.index(part))
        filled = np.arange(-(-len(rows) // _BATCH) * _BATCH).clip(max=len(rows) - 1)
        batches = [
            self._batch(block, part, key, rows[chosen]) for chosen in filled.reshape(-1, _BATCH)
        ]
        shape = (0, *self.layer.parts[part].shape[1:3], self.topologies[block].depth)
        return np.concatenate([np.zeros(shape, np.float32), *batches])[: len(rows)]

    def _batch(self, block: int, part: str, key: jax.Array, rows: np.ndarray) -> jax.Array:
        images, copy = np.divmod(rows, self.copies_of(part))
        # The first copies come first, so that they do not depend on how many there are.
        numbers = np.int32(copy * len(getattr(self.parts, part)) + images)
        if self.defence.changes_image:
            pictures = as_float(getattr(self.parts, part).images[images])
            return self._of_images[block](key, pictures, numbers)
        channels = self.topologies[block].channels
        clean = self.layer.gather(part, images, self.layer.positions(channels), len(channels))
        return _defend(self.defence, key, np.float32(clean), numbers)

    @functools.cached_property
    def _of_images(self) -> list[Callable[..., jax.Array]]:
        return [jax.jit(_around(local, self.defence)) for local in self.local]
