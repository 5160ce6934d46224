"""What a device releases of all parts of the data under a mechanism.

    features = Release(layer, parts, topology, mechanism, key).features()
    features.parts["target"][rows]  # float32 [n, h, w, D]

A release is made once: target, validation and test images have one draw of randomness each. An
attacker who can make pairs makes as many as he likes: auxiliary images are there in several copies,
each with randomness of its own, as many as a training takes (`several_copies`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import PART_NAMES, Parts, as_float
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT, Local, Mechanism
from privynet_jax.mechanisms.release_functions import (
    expected_release,
    image_keys,
    of_representations,
    release_by_content,
    release_function,
)
from privynet_jax.platform.rows.row_views import ChosenChannels, RowView, remembered

# More copies than these are drawn again from the start.
MOST_COPIES = 8
_CALIBRATION_ROWS = 256
# Images that are released at once, always as many: every other number would be compiled anew.
_BATCH = 16


_of_representations = jax.jit(of_representations, static_argnums=0)


def several_copies(parts: Parts, **copies: int) -> Parts:
    """Returns parts with several copies of each image of some parts, image by image.

    So that who holds out the last images holds out all of their copies.
    """
    found = {}
    for name, count in copies.items():
        part = getattr(parts, name)
        found[name] = part.take(np.repeat(np.arange(len(part)), count))
    return dataclasses.replace(parts, **found)


def copies_for(examples: int, images: int) -> int:
    """Returns how many copies of so many images a training takes, at most `MOST_COPIES`.

    `examples` are those that it sees: its steps times its batch size.
    """
    return min(MOST_COPIES, max(1, -(-examples // images)))


def release_secret(mechanism: Mechanism, key: jax.Array, parts: Parts) -> Any:
    """Returns what all pictures of the release of a key have in common."""
    own = jax.random.fold_in(key, len(PART_NAMES))  # parts have the numbers before
    return mechanism.secret(own, parts.auxiliary.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """What is released of a topology; nothing is computed before it is read.

    Attributes:
        layer: normalised representations without a mechanism; of pictures, `image_features`.
        parts: the images that they were made of, each once.
        topology: whose channels are released, alone, with the scales they had before.
        mechanism: sees them together (their norm, for one). Clipping and noise change their root
            mean square; one public number, taken from auxiliary images, brings it to 1. Pictures
            are divided by `PICTURE_UNIT`.
        key: of the release.
        copies: of auxiliary images, each with its own randomness; row r is image r // copies.
        repeats: releases of the same pictures, of which their receiver takes the mean.
        local: images -> normalised representation, for mechanisms that change the image.
    """

    layer: LayerFeatures
    parts: Parts
    topology: Topology
    mechanism: Mechanism
    key: jax.Array
    copies: int = 1
    repeats: int = 1
    local: Local | None = None

    def __post_init__(self) -> None:
        if self.mechanism.changes_image and self.local is None:
            raise ValueError(f"Expected `local` for {self.mechanism}, got none.")

    def features(self) -> LayerFeatures:
        """Returns its rows, which are computed as they are read."""
        rows = {name: self._rows(name) for name, _ in self.parts.items()}
        scales = self.layer.scales[self.layer.positions(self.topology.channels)]
        return LayerFeatures(self.layer.num_layers, self.topology.channels, rows, scales)

    def _rows(self, part: str) -> RowView:
        rows = _ReleasedRows(self, part)
        # The local NN has to see each copy by itself.
        return remembered(rows) if self.mechanism.changes_image else rows

    def expected(self) -> Local:
        """Returns images -> what is released of them on average, normalised, differentiable."""
        return expected_release(self._needed_local(), self.mechanism, self.unit)

    def made(self) -> Local:
        """Returns images -> what is released of them, normalised, as who has the local NN makes it.

        With the release's secret, and other randomness than the release's own.
        """
        key = jax.random.fold_in(self.key, len(PART_NAMES) + 1)
        return release_by_content(self._needed_local(), self.mechanism, key, self.unit, self.secret)

    def _needed_local(self) -> Local:
        if self.local is None:
            raise UserError(
                "a white box needs the local NN itself, which these representations do not come "
                "with; leave it out"
            )
        return self.local

    def copies_of(self, part: str) -> int:
        """Returns how many rows there are of each image."""
        return {"auxiliary": self.copies, "target": self.mechanism.training_copies}.get(part, 1)

    def released(self, part: str, rows: np.ndarray) -> np.ndarray:
        """Returns rows before they are brought to a root mean square of 1."""
        key = jax.random.fold_in(self.key, PART_NAMES.index(part))
        keys = [key, *(jax.random.fold_in(key, again) for again in range(1, self.repeats))]
        filled = np.arange(-(-len(rows) // _BATCH) * _BATCH).clip(max=len(rows) - 1)
        batches = [
            self._of_several([self._batch(part, key, rows[chosen]) for key in keys])
            for chosen in filled.reshape(-1, _BATCH)
        ]
        return np.concatenate(batches)[: len(rows)]

    def _of_several(self, releases: Sequence[jax.Array]) -> np.ndarray:
        if len(releases) == 1:
            return np.asarray(releases[0])
        return self.mechanism.mean_of(np.stack(releases))

    @functools.cached_property
    def secret(self) -> Any:
        """What all pictures have in common."""
        common = release_secret(self.mechanism, self.key, self.parts)
        return self.mechanism.prepared(common, self.local, self.parts.validation.images)

    @functools.cached_property
    def unit(self) -> np.float32:
        """What is released is divided by, a public number."""
        if self.mechanism.releases_pictures:
            return np.float32(PICTURE_UNIT)
        # The first copy of different images. Where all is zero it stays so.
        rows = self.copies * np.arange(min(_CALIBRATION_ROWS, len(self.parts.auxiliary)))
        squares = np.square(self.released("auxiliary", rows), dtype=np.float64)
        return np.float32(np.sqrt(np.mean(squares)) or 1.0)

    def asked(self, part: str) -> RowView:
        """Returns the rows with what the device keeps of each as constant channels at the end."""
        return _AskedRows(self, part)

    def kept(self, part: str, rows: np.ndarray) -> np.ndarray:
        """Returns what the device keeps of rows until their answers come, float32 [n, K]."""
        key = jax.random.fold_in(self.key, PART_NAMES.index(part))
        _, after = image_keys(key, self._numbers(part, rows)[2])
        return np.asarray(jax.vmap(self.mechanism.kept)(after))

    def _numbers(self, part: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images, copy = np.divmod(rows, self.copies_of(part))
        # The first copies come first, so that they do not depend on how many there are.
        return images, copy, np.int32(copy * len(getattr(self.parts, part)) + images)

    def _batch(self, part: str, key: jax.Array, rows: np.ndarray) -> jax.Array:
        images, copy, numbers = self._numbers(part, rows)
        positions = self.layer.positions(self.topology.channels)
        stored = ChosenChannels(self.layer.parts[part], positions)
        if self.mechanism.changes_image:
            pictures = as_float(getattr(self.parts, part).images[images])
            found = self._of_images(self.secret, key, pictures, numbers)
        else:
            clean = np.float32(stored[images])
            found = _of_representations(self.mechanism, self.secret, key, clean, numbers)
        if part == "target" and self._has_clean:
            # What the cloud owns; noisy ones are in the same unit.
            changes = self.mechanism.changes_image
            clean = self._local(pictures) if changes else np.float32(stored[images])
            clean = jax.vmap(self.mechanism.expected)(clean)
            found = jnp.where(copy[:, None, None, None] == 0, clean, found)
        return found

    @property
    def _has_clean(self) -> bool:
        return self.mechanism.training_copies > 1 and self.mechanism.first_is_clean

    @functools.cached_property
    def _local(self) -> Local:
        return jax.jit(self.local)

    @functools.cached_property
    def _of_images(self) -> Callable[..., jax.Array]:
        return jax.jit(release_function(self.local, self.mechanism))


class _ReleasedRows(RowView):
    """Rows of one part that are released as they are read; the same row is always the same."""

    def __init__(self, release: Release, part: str) -> None:
        rows = len(getattr(release.parts, part)) * release.copies_of(part)
        place = release.layer.parts["auxiliary"].shape[1:3]
        depth = release.mechanism.depth(release.topology.depth)
        super().__init__((rows, *place, depth), np.float32)
        self._release, self._part = release, part

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        if not len(numbers):
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return self._release.released(self._part, numbers) / self._release.unit


class _AskedRows(RowView):
    """Released rows beside what the device keeps of them."""

    def __init__(self, release: Release, part: str) -> None:
        self._released, self._release, self._part = _ReleasedRows(release, part), release, part
        more = len(release.mechanism.kept(release.key))
        *shape, depth = self._released.shape
        super().__init__((*shape, depth + more), np.float32)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        released = self._released[numbers]
        kept = self._release.kept(self._part, numbers)[:, None, None]
        more = np.broadcast_to(kept, (*released.shape[:3], kept.shape[-1]))
        return np.concatenate([released, more], axis=-1)
