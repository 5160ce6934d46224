"""Labelled images as a source stores them: encoded, and read one at a time when they are needed.

`tfds_source` and `folders` return these; `parts` decides which images are used and decodes
them. So no source's images are ever in memory all at once, however large they are.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class StoredImage(Protocol):
    """An image that is read when asked for, such as a path; `str` is what a person calls it."""

    def read_bytes(self) -> bytes:
        """Returns it as PNG, JPEG, ..."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Labelled examples of one split.

    Attributes:
        images: [N].
        labels: int32 [N].
        groups: int64 [N]; images of one group overlap, or are copies of each other.
    """

    images: Sequence[StoredImage]
    labels: np.ndarray
    groups: np.ndarray

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
