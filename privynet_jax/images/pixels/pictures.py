"""One picture as files hold it, decoded to one size and colour space.

Pillow does the decoding; here is what it leaves open: which formats, orientation, sizes that
exhaust memory. `colours` has the values of pixels.

    pixels = decode_picture(path.read_bytes(), size=32)  # uint8 [32, 32, 3]
"""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from privynet_jax.errors import first_line
from privynet_jax.images.pixels import dicom
from privynet_jax.images.pixels.colours import (
    UnreadablePictureError,
    as_rgb,
    embedded_profile,
    in_srgb,
    stated_values,
)
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Fit, Reading

with contextlib.suppress(ImportError):  # an extra
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
dicom.register()
# What is read. Pillow knows more, some of which starts other programs (EPS) or is read by nobody.
_KINDS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF", "DICOM")
FORMATS = tuple(kind for kind in _KINDS if kind in Image.OPEN)
# A 12000 x 12000 photograph still passes; decoded, it takes 432 MB.
MAX_PIXELS = 150_000_000
# Changes whenever other pixels are made of a file.
VERSION = 3
# Pictures that are decoded at one time take no more of memory than this, or are a single one.
_MOST_BYTES_AT_WORK = 2**31
# Of a pixel while it is decoded, with the copies that are made: of 8 bits a channel, and of 16.
_BYTES_PER_PIXEL, _BYTES_PER_DEEP_PIXEL = 12, 48
# In a file's place that nobody may read; no picture begins so.
_FORBIDDEN = b"no permission"
# Pillow warns of odd metadata and of what is checked here. Filters are for all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class StoredImage(Protocol):
    """An image that is read when asked for, such as a path; `str` is what a person calls it."""

    def read_bytes(self) -> bytes:
        """Returns it as PNG, JPEG, ..."""
        ...


class MemoryBound:
    """Threads wait here for memory, in bytes; who wants more than there is, for all others."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._changed = most, 0, threading.Condition()

    @contextlib.contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Holds so many bytes."""
        count = min(count, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + count <= self._most)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


_AT_WORK = MemoryBound(_MOST_BYTES_AT_WORK)


def stored_bytes(image: StoredImage) -> bytes:
    """Returns a picture as stored; where it may not be read, what `open_picture` refuses."""
    try:
        return image.read_bytes()
    except PermissionError:
        return _FORBIDDEN


def open_picture(data: bytes) -> Image.Image:
    """Returns an image of which only the header has been decoded.

    Raises:
        UnreadablePictureError: not one of `FORMATS`, damaged, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadablePictureError("the file is empty")
    if data == _FORBIDDEN:
        raise UnreadablePictureError("you have no permission to read it")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return picture
    except Image.DecompressionBombError:  # Pillow looks at the header too, before we can
        raise UnreadablePictureError(f"it has over {MAX_PIXELS:,} pixels; shrink it") from None
    except UnreadablePictureError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadablePictureError(_what_else(data)) from None
    except Exception as error:  # readers of damaged headers raise all sorts of types
        raise UnreadablePictureError(f"it is damaged: {first_line(error)}") from None


def decode_picture(data: bytes, size: int, *, reading: Reading = AS_FILES_SAY) -> np.ndarray:
    """Returns an image's central square, or all of it, resized, as uint8 [size, size, 3] RGB.

    The EXIF orientation is applied; palettes and greyscale become RGB; transparent pixels become
    white; colours are those of sRGB, by the embedded profile if there is a sound one; values of
    more than 8 bits are scaled to 8 by the range that the file states; of an animation, the first
    frame is used; of DICOM, what its window shows. Shrinking is antialiased (Lanczos). JPEGs of
    four times the size and more are shrunk while they are decoded, to no less than twice the size:
    much quicker, and pixels of photographs are off by less than a level of 255 on average, at sharp
    edges by more.

    Args:
        data: the content of a file.
        size: side of the result in pixels.
        reading: what the file leaves open.

    Raises:
        UnreadablePictureError: as of `open_picture`, or its range of values is unknown.
    """
    with open_picture(data) as stored:
        try:
            if stored.format == dicom.DICOM:
                stored.window = reading.dicom_window
            if stored.format in ("JPEG", "MPO"):
                stored.draft(None, (2 * size, 2 * size))
            profile, values = embedded_profile(stored), stated_values(stored, data)
            is_deep = values or stored.format == dicom.DICOM
            per_pixel = _BYTES_PER_DEEP_PIXEL if is_deep else _BYTES_PER_PIXEL
            with _AT_WORK.take(per_pixel * stored.width * stored.height):
                image = ImageOps.exif_transpose(stored)
                if image.mode != "CMYK" or profile is None:
                    image = as_rgb(image, values, reading.sixteen_bit_max)
                found = in_srgb(_resized(image, size, reading.fit), profile)
                # After colours are those of sRGB: black of a printer is none.
                return np.asarray(ImageOps.pad(found, (size, size), color="black"))
        except UnreadablePictureError:
            raise
        except Exception as error:  # decoders of damaged data raise all sorts of types
            raise UnreadablePictureError(f"it is damaged: {first_line(error)}") from None


def _what_else(data: bytes) -> str:
    """What a file is that cannot be opened as one of `FORMATS`, and what to do about it."""
    kinds = []
    for kind, (_, accepts) in Image.OPEN.items():
        with contextlib.suppress(Exception):  # some want more bytes than the file has
            if accepts and accepts(data[:16]):
                kinds.append(kind)
    if not kinds and dicom.is_dicom(data) and dicom.DICOM not in Image.OPEN:
        return "it is DICOM; pip install pydicom, or convert it to PNG"
    if not kinds and re.match(rb"....ftyp(hei|hev|mif1|msf1)", data, re.DOTALL):
        return "it is HEIC; pip install pillow-heif, or convert it to PNG"
    if not kinds:
        return "it is no image that Pillow knows"
    if known := [kind for kind in kinds if kind in FORMATS]:
        return f"it is a damaged or unusual {known[0]}"
    return f"it seems to be {kinds[0]}, which is not read; convert it to PNG"


def _resized(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    if image.size == (size, size):
        return image
    if fit == "pad":
        return ImageOps.contain(image, (size, size), Image.Resampling.LANCZOS)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Pillow's `box` argument of resize would let the filter see pixels beyond the square.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)
