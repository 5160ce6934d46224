"""Labelled images as sources store them, and their decoding to one size and colour space.

`tfds_source` and `folders` return encoded images, which are read one at a time; `parts` and
`sample` decide which of them are decoded. So no source's images are ever in memory all at once.
Pillow does the decoding; here is what it leaves open: orientation, transparency, 16-bit values,
sizes that exhaust memory.

    pixels = decode_picture(path.read_bytes(), size=32)  # uint8 [32, 32, 3]
"""

import dataclasses
import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from privynet_jax.errors import UserError, first_line

_LOG = logging.getLogger(__name__)
# Decoded images beyond this go to a file, which the system may page out.
_MOST_BYTES_IN_MEMORY = 2**29
# A 12000 x 12000 photograph still passes; decoded, it takes 432 MB.
MAX_PIXELS = 150_000_000
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


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


class UnreadablePictureError(ValueError):
    """The bytes are no image that can be used; the message says why, without naming the file."""


def decode_picture(data: bytes, size: int) -> np.ndarray:
    """Returns an image's central square, resized, as uint8 [size, size, 3] RGB.

    The EXIF orientation is applied; palettes and greyscale become RGB; transparent pixels become
    white; CMYK is converted; 16-bit values are scaled to 8 bits; of an animation, the first frame
    is used. Shrinking is antialiased (Lanczos).

    Args:
        data: the content of a PNG, JPEG, GIF, WebP, TIFF, BMP, ... file.
        size: side of the result in pixels.

    Raises:
        UnreadablePictureError: not an image, damaged, larger than `MAX_PIXELS`, or with
            floating-point values, whose range nobody can know.
    """
    if not data:
        raise UnreadablePictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of what we check
            with Image.open(io.BytesIO(data)) as stored:
                # The header alone is known here; nothing has been decoded.
                if stored.width * stored.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                return np.asarray(_resized(_as_rgb(ImageOps.exif_transpose(stored)), size))
    except UnreadablePictureError:
        raise
    except Image.DecompressionBombError:  # Pillow looks at the header too, before we can
        raise UnreadablePictureError(f"it has over {MAX_PIXELS:,} pixels; shrink it") from None
    except Image.UnidentifiedImageError:
        raise UnreadablePictureError("it is no image that Pillow knows") from None
    except Exception as error:  # decoders of damaged data raise all sorts of types
        raise UnreadablePictureError(f"it is damaged: {first_line(error)}") from None


def decode_or_skip(data: bytes, size: int, name: str, skip: bool) -> np.ndarray | None:
    """Returns `decode_picture` of a named file; where it is unreadable, None or a UserError."""
    try:
        return decode_picture(data, size)
    except UnreadablePictureError as error:
        if skip:
            return None
        raise UserError(
            f"cannot use {name}: {error}; "
            "repair or remove it, or skip such files with --skip_unreadable"
        ) from None


def decode_split(
    split: EncodedSplit,
    size: int,
    name: str,
    skip: bool,
    count: int | None = None,
    most: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns decoded images, uint8 [n, size, size, 3], and their labels, one after the other.

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
    images, kept, skipped = _allocate((count, size, size, 3)), [], 0
    with tqdm(total=count, desc=f"decoding {name}", unit="image", delay=2) as bar:
        for index, (stored, label) in enumerate(zip(split.images, split.labels, strict=True)):
            if len(kept) == count or not left[label]:
                continue
            picture = decode_or_skip(stored.read_bytes(), size, str(stored), skip)
            if picture is None:
                skipped += 1
                continue
            images[len(kept)] = picture
            kept.append(index)
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
        if hasattr(os, "posix_fallocate"):  # else writing to a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadablePictureError("it has floating-point values; convert it to 8 or 16 bits")
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image, np.int64)
        scaled = (np.clip(values, 0, 65535) + 128) // 257  # 65535 = 255 * 257
        image = Image.fromarray(np.uint8(scaled))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Pillow's `box` argument of resize would let the filter see pixels beyond the square.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)
