"""Labelled images as a source stores them: encoded, and read one at a time when they are needed.

`tfds_source` and `folders` return these; `parts` decides which images are used and decodes
them. So no source's images are ever in memory all at once, however large they are.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class StoredImages(Sequence[bytes]):
    """A sequence of encoded images that reads each one when asked for it."""

    def __init__(
        self, read: Callable[[int], bytes], name: Callable[[int], str], numbers: np.ndarray
    ) -> None:
        """Describes images without reading any.

        Args:
            read: an image's number in its source -> its bytes as PNG, JPEG, ...
            name: its number -> what a person would call it, for messages.
            numbers: int [N], the images of this sequence.
        """
        self._read, self._name, self._numbers = read, name, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> bytes:
        return self._read(int(self._numbers[index]))

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """Returns what a person would call an image."""
        return self._name(int(self._numbers[index]))

    def take(self, indices: np.ndarray) -> "StoredImages":
        """Returns the images at the given indices, in their order."""
        return StoredImages(self._read, self._name, self._numbers[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Labelled examples of one split.

    Attributes:
        images: [N], encoded.
        labels: int32 [N].
        groups: int64 [N]; images of one group overlap, or are copies of each other.
    """

    images: StoredImages
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "EncodedSplit":
        """Returns the examples at the given indices, in their order."""
        return EncodedSplit(self.images.take(indices), self.labels[indices], self.groups[indices])


class EncodedDataset(NamedTuple):
    """A data set's labelled examples; `test` is None where no split but train has labels."""

    train: EncodedSplit
    test: EncodedSplit | None
    class_names: tuple[str, ...]
