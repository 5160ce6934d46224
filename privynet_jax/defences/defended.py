"""The representations that a defended local NN would release of all parts of the data.

    features = defended_features(layer, parts, topology, defence, key)
    features.parts["target"][rows]  # float32 [n, h, w, D]

A release is made once: target, validation and test images have one draw of randomness each. An
attacker who can make pairs makes as many as he likes: auxiliary images are there in several copies,
each with randomness of its own, as many as a training takes (`several_copies`).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology
from privynet_jax.defences.mechanisms import Defence
from privynet_jax.images.parts import PART_NAMES, Parts, as_float
from privynet_jax.platform.rows.row_views import ChosenChannels, RowView

# More copies than these are drawn again from the start.
MOST_COPIES = 8
_CALIBRATION_ROWS = 256
# Images that are defended at once, always as many: every other number would be compiled anew.
_BATCH = 16


def defend(
    defence: Defence, key: jax.Array, representations: jax.Array, rows: jax.Array
) -> jax.Array:
    """Returns what is released of representations, where the defence leaves images alone.

    They are normalised, float32 [N, h, w, D]; noise may make them negative (`folded`). Of the
    release's secret key and each image's row, int [N]: equal rows get equal randomness.
    """
    _, after = image_keys(key, rows)
    return jax.vmap(defence.of_representation)(after, representations)


def image_keys(key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of each row's `of_image` and of its `of_representation`, [N] each."""
    keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row)))(rows)
    return keys[:, 0], keys[:, 1]


def folded(x: jax.Array) -> jax.Array:
    """Returns values of any sign as values above -1, without losing any; from 0 on they stay.

    The networks take log1p of what they are given. Of this it is sign(x) log(1 + |x|).
    """
    # Not `where`: its branch that is not taken would divide by zero at 1, and spoil gradients.
    return x / (1 + jnp.maximum(-x, 0.0))


_defend = jax.jit(defend, static_argnums=0)


def defended_local_nn(
    local: Callable[[jax.Array], jax.Array], defence: Defence
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Returns what a device would run: a pure function that can be jitted and exported.

    It takes the release's secret key; images float32 [N, H, W, 3] in [0, 1]; and int [N], each
    image's row in the release, from which its randomness comes. It returns the defended
    representation, float32 [N, h, w, depth]; `local` makes the normalised, undefended one.
    """

    def release(key: jax.Array, images: jax.Array, rows: jax.Array) -> jax.Array:
        before, _ = image_keys(key, rows)
        representations = local(jax.vmap(defence.of_image)(before, images))
        return defend(defence, key, representations, rows)

    return release


def several_copies(parts: Parts, copies: int) -> Parts:
    """Returns parts with several copies of each auxiliary image, image by image.

    So that who holds out the last images holds out all of their copies.
    """
    repeated = parts.auxiliary.take(np.repeat(np.arange(len(parts.auxiliary)), copies))
    return dataclasses.replace(parts, auxiliary=repeated)


def copies_for(examples: int, images: int) -> int:
    """Returns how many copies of so many images a training takes, at most `MOST_COPIES`.

    `examples` are those that it sees: its steps times its batch size.
    """
    return min(MOST_COPIES, max(1, -(-examples // images)))


def defended_features(
    layer: LayerFeatures,
    parts: Parts,
    topology: Topology,
    defence: Defence,
    key: jax.Array,
    *,
    copies: int = 1,
    local: Callable[[jax.Array], jax.Array] | None = None,
) -> LayerFeatures:
    """Returns what is released of all parts; nothing is computed before it is read.

    Args:
        layer: normalised representations without a defence.
        parts: the images that they were made of, each once.
        topology: whose channels are released, alone, with the scales they had before the defence.
        defence: sees them together (their norm, for one). Clipping and noise change their root mean
            square; one public number, taken from auxiliary images, brings it to 1.
        key: of the release.
        copies: of auxiliary images, each with its own randomness; row r is image r // copies.
        local: images -> normalised representation, for defences that change the image.
    """
    if defence.changes_image and local is None:
        raise ValueError(f"Expected `local` for {defence}, got none.")
    release = _Release(layer, parts, topology, defence, key, copies, local)
    rows = {name: _DefendedRows(release, name) for name, _ in parts.items()}
    scales = layer.scales[layer.positions(topology.channels)]
    return LayerFeatures(layer.num_layers, topology.channels, rows, scales)


@dataclasses.dataclass(frozen=True, eq=False)
class _Release:
    """What is released of a topology, before it is brought to a root mean square of 1."""

    layer: LayerFeatures
    parts: Parts
    topology: Topology
    defence: Defence
    key: jax.Array
    copies: int
    local: Callable[[jax.Array], jax.Array] | None

    def copies_of(self, part: str) -> int:
        return self.copies if part == "auxiliary" else 1

    def defended(self, part: str, rows: np.ndarray) -> np.ndarray:
        key = jax.random.fold_in(self.key, PART_NAMES.index(part))
        filled = np.arange(-(-len(rows) // _BATCH) * _BATCH).clip(max=len(rows) - 1)
        batches = [self._batch(part, key, rows[chosen]) for chosen in filled.reshape(-1, _BATCH)]
        return np.concatenate(batches)[: len(rows)]

    @functools.cached_property
    def root_mean_square(self) -> np.float32:
        # The first copy of different images. Where all is zero it stays so.
        rows = self.copies * np.arange(min(_CALIBRATION_ROWS, len(self.parts.auxiliary)))
        squares = np.square(self.defended("auxiliary", rows), dtype=np.float64)
        return np.float32(np.sqrt(np.mean(squares)) or 1.0)

    def _batch(self, part: str, key: jax.Array, rows: np.ndarray) -> jax.Array:
        images, copy = np.divmod(rows, self.copies_of(part))
        # The first copies come first, so that they do not depend on how many there are.
        numbers = np.int32(copy * len(getattr(self.parts, part)) + images)
        if self.defence.changes_image:
            pictures = as_float(getattr(self.parts, part).images[images])
            return self._of_images(key, pictures, numbers)
        positions = self.layer.positions(self.topology.channels)
        clean = ChosenChannels(self.layer.parts[part], positions)[images]
        return _defend(self.defence, key, np.float32(clean), numbers)

    @functools.cached_property
    def _of_images(self) -> Callable[..., jax.Array]:
        return jax.jit(defended_local_nn(self.local, self.defence))


class _DefendedRows(RowView):
    """Rows of one part that are defended as they are read; the same row is always the same."""

    def __init__(self, release: _Release, part: str) -> None:
        rows = len(getattr(release.parts, part)) * release.copies_of(part)
        place = release.layer.parts["auxiliary"].shape[1:3]
        super().__init__((rows, *place, release.topology.depth), np.float32)
        self._release, self._part = release, part

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        if not len(numbers):
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return self._release.defended(self._part, numbers) / self._release.root_mean_square
