"""Streams pictures that have no labels, batch by batch, as a device does that releases them.

    for images in stream_pictures(folder, 32, 100, skip_unreadable=False):
        release(local(as_float(images)))  # uint8 [100, 32, 32, 3]; the last batch may be smaller

`folder_source` finds the files and `pictures` decodes them. `data` is for labelled pictures that
all fit into one place; here a folder may hold any number, because one batch exists at a time.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decode_or_skip
from privynet_jax.images.folders import list_pictures

_LOG = logging.getLogger(__name__)


def stream_pictures(
    folder: Path, image_size: int, batch_size: int, *, skip_unreadable: bool
) -> Iterator[np.ndarray]:
    """Returns an iterator over all pictures of a folder, in the order of `list_pictures`.

    Pictures in subfolders, however deep, are among them: people keep theirs by year or by place,
    and none should be left behind unnoticed. The order is that of the sorted paths. As everywhere,
    hidden files are passed over, every other file counts as a picture, and links to folders are
    not followed. The files are listed at the call, and each is read when its batch is asked for.

    Args:
        folder: where the pictures are.
        image_size: each becomes its central square, resized to this, in pixels.
        batch_size: pictures in every batch but the last, also where some were skipped.
        skip_unreadable: leave out pictures that cannot be decoded, instead of refusing them; a
            warning at the end counts them.

    Yields:
        uint8 [n, image_size, image_size, 3] RGB, n = batch_size or, at the end, fewer; an array
        of its own each time.

    Raises:
        UserError: at the call, a bad argument, no such folder or no file in it; from the iterator,
            a picture that cannot be decoded (named), or none that can.
    """
    for what, value in (("image_size", image_size), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"Expected {what} of at least 1, got {value}")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of pictures")
    paths = list_pictures(folder)
    pictures = _decoded(paths, image_size, skip_unreadable, folder)
    return _batches(pictures, min(batch_size, len(paths)), image_size)


def _batches(
    pictures: Iterator[np.ndarray], batch_size: int, image_size: int
) -> Iterator[np.ndarray]:
    batch, filled = None, 0
    for picture in pictures:
        if batch is None:
            batch = np.empty((batch_size, image_size, image_size, 3), np.uint8)
        batch[filled] = picture
        filled += 1
        if filled == batch_size:
            # Whoever asks for the next batch may have let go of this one, and so must this.
            full, batch, filled = [batch], None, 0
            yield full.pop()
    if filled:
        yield batch[:filled]


def _decoded(
    paths: Sequence[Path], image_size: int, skip_unreadable: bool, folder: Path
) -> Iterator[np.ndarray]:
    skipped = 0
    for path in tqdm(paths, desc="reading pictures", unit="picture", delay=2):
        picture = decode_or_skip(path.read_bytes(), image_size, str(path), skip_unreadable)
        if picture is None:
            skipped += 1
        else:
            yield picture
    if skipped == len(paths):
        raise UserError(f"{folder} holds no picture that can be read; all {skipped} were skipped")
    if skipped:
        _LOG.warning("skipped %d unreadable images of the folder %s", skipped, folder)
