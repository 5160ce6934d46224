"""Labelled images as sources store them, and the decoding of many to one size.

`tfds_source` and `folders` return encoded images, which are read one at a time; `parts` and
`sample` decide which of them are decoded. So no source's images are ever in memory all at once.
`pixels.pictures` decodes each.

    images, examples = decode_split(encoded.train, 32, "train", skip=False)  # uint8 [N, 32, 32, 3]
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import StoredImage, decode_picture, stored_bytes
from privynet_jax.platform.files import allocate
from privynet_jax.platform.progress import Bar

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 3
_MOST_THREADS = 8


Decoder = Callable[[bytes, int], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Labelled examples of one split."""

    images: Sequence[StoredImage]
    labels: np.ndarray  # int32 [N]
    groups: np.ndarray  # int64 [N]; images of one group overlap, or are copies of each other
    several: np.ndarray | None = None  # int32 [N, names]: all labels, where each may have several
    label_names: tuple[str, ...] = ()  # of these

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "EncodedSplit":
        """Returns the examples at the given indices, in their order."""
        images = [self.images[index] for index in indices]
        several = None if self.several is None else self.several[indices]
        labels, groups = self.labels[indices], self.groups[indices]
        return EncodedSplit(images, labels, groups, several, self.label_names)


class EncodedDataset(NamedTuple):
    """A data set's labelled examples; `test` is None where no split but train has labels.

    Where a class is a source, all its images are of one photograph.
    """

    train: EncodedSplit
    test: EncodedSplit | None
    class_names: tuple[str, ...]
    class_is_source: bool = False


def decode_or_skip(
    data: bytes, size: int, name: str, skip: bool, decode: Decoder = decode_picture
) -> np.ndarray | None:
    """Returns a named file's picture; where it is unreadable, None or a UserError."""
    try:
        return decode(data, size)
    except UnreadablePictureError as error:
        if skip:
            return None
        raise UserError(
            f"cannot use {name}: {error}; "
            "repair or remove it, or skip such files with --skip_unreadable"
        ) from None


def decoded_ahead(
    pictures: Iterable[tuple[str, bytes]],
    size: int,
    skip: bool,
    decode: Decoder = decode_picture,
) -> Iterator[concurrent.futures.Future]:
    """Yields what will be `decode_or_skip` of (name, data), in their order, by all cores."""
    waiting: deque[concurrent.futures.Future] = deque()
    pool = pool_of_decoders()
    try:
        for name, data in pictures:
            waiting.append(pool.submit(decode_or_skip, data, size, name, skip, decode))
            if len(waiting) > 2 * _MOST_THREADS:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


def pool_of_decoders() -> concurrent.futures.ThreadPoolExecutor:
    """Returns threads that decode, one per core, up to 8; those with huge pictures take turns."""
    return concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))


def tell_skipped(names: Sequence[str], place: str) -> None:
    """Warns of unreadable images that were skipped, and names some of them."""
    if names:
        some = ", ".join(names[:_MOST_NAMED])
        _LOG.warning("skipped %d unreadable images of %s, such as %s", len(names), place, some)


def decode_split(
    split: EncodedSplit,
    size: int,
    name: str,
    skip: bool,
    count: int | None = None,
    most: np.ndarray | None = None,
    decode: Decoder = decode_picture,
) -> tuple[np.ndarray, EncodedSplit]:
    """Returns decoded images, uint8 [n, size, size, 3], and the examples that they are of.

    Args:
        split: the images in turn.
        size: side of the results in pixels.
        name: of the split.
        skip: pass over unreadable images, instead of raising UserError.
        count: stop after so many; None means all.
        most: int [classes], take no more of each class.
        decode: `decode_picture`, or what gives the same.
    """
    left = np.bincount(split.labels) if most is None else most.copy()
    count = min(len(split) if count is None else count, int(left.sum()))
    images, kept, asked = allocate((count, size, size, 3)), [], []

    def wanted() -> Iterator[tuple[str, bytes]]:
        for index, (stored, label) in enumerate(zip(split.images, split.labels, strict=True)):
            if left[label]:
                asked.append(index)
                yield str(stored), stored_bytes(stored)

    skipped: list[str] = []
    with (
        Bar(total=count, desc=f"decoding {name}", unit="image", delay=2) as bar,
        contextlib.closing(decoded_ahead(wanted(), size, skip, decode)) as decoded,
    ):
        for place, ahead in enumerate(decoded):
            label = split.labels[asked[place]]
            if len(kept) == count:
                break
            bar.update(min(1, count - bar.n))  # unreadable ones, too, of which there may be more
            if not left[label]:  # since it was asked for
                continue
            picture = ahead.result()
            if picture is None:
                skipped.append(str(split.images[asked[place]]))
                continue
            images[len(kept)] = picture
            kept.append(asked[place])
            left[label] -= 1
    tell_skipped(skipped, name)
    return images[: len(kept)], split.take(np.array(kept, int))
