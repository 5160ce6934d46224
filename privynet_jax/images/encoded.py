"""Labelled images as a source stores them: encoded, read one at a time, and decoded when chosen.

`tfds_source` and `folders` return these; `parts` and `sample` decide which of them are decoded. So
no source's images are ever in memory all at once, however large they are.
"""

import contextlib
import dataclasses
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from privynet_jax.images.decoding import decoded_ahead

_LOG = logging.getLogger(__name__)
# Decoded images beyond this go to a file, which the system may page out.
_MOST_BYTES_IN_MEMORY = 2**29


class StoredImage(Protocol):
    """An image that is read when asked for, such as a path; `str` is what a person calls it."""

    def read_bytes(self) -> bytes:
        """Returns it as PNG, JPEG, ..."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Labelled examples of one split."""

    images: Sequence[StoredImage]
    labels: np.ndarray  # int32 [N]
    groups: np.ndarray  # int64 [N]; images of one group overlap, or are copies of each other

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "EncodedSplit":
        """Returns the examples at the given indices, in their order."""
        images = [self.images[index] for index in indices]
        return EncodedSplit(images, self.labels[indices], self.groups[indices])


class EncodedDataset(NamedTuple):
    """A data set's labelled examples; `test` is None where no split but train has labels."""

    train: EncodedSplit
    test: EncodedSplit | None
    class_names: tuple[str, ...]


def decode_split(
    split: EncodedSplit,
    size: int,
    name: str,
    skip: bool,
    count: int | None = None,
    most: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns decoded images, uint8 [n, size, size, 3], and their labels, in the split's order.

    Args:
        split: the images in turn.
        size: side of the results in pixels.
        name: of the split.
        skip: pass over unreadable images, instead of raising UserError.
        count: stop after so many; None means all.
        most: int [classes], take no more of each class.
    """
    left = np.bincount(split.labels) if most is None else most.copy()
    count = min(len(split) if count is None else count, int(left.sum()))
    images, kept, asked = _allocate((count, size, size, 3)), [], []

    def wanted() -> Iterator[tuple[str, bytes]]:
        for index, (stored, label) in enumerate(zip(split.images, split.labels, strict=True)):
            if left[label]:
                asked.append(index)
                yield str(stored), stored.read_bytes()

    skipped = 0
    with (
        tqdm(total=count, desc=f"decoding {name}", unit="image", delay=2) as bar,
        contextlib.closing(decoded_ahead(wanted(), size, skip)) as decoded,
    ):
        for place, ahead in enumerate(decoded):
            label = split.labels[asked[place]]
            if len(kept) == count:
                break
            if not left[label]:  # since it was asked for
                continue
            picture = ahead.result()
            if picture is None:
                skipped += 1
                continue
            images[len(kept)] = picture
            kept.append(asked[place])
            left[label] -= 1
            bar.update()
    if skipped:
        _LOG.warning("skipped %d unreadable images of %s", skipped, name)
    return images[: len(kept)], split.labels[kept]


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    """An uint8 array in memory or, when large, in a nameless file of the temporary folder."""
    if math.prod(shape) <= _MOST_BYTES_IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the file object
        return np.memmap(file, np.uint8, "w+", shape=shape)
