"""Decodes image files of the kinds that people have, to one size and colour space.

`encoded` hands over bytes as they were stored, and gets uint8 RGB squares. Pillow does the
decoding; here is what it leaves open: which formats, orientation, transparency, colour profiles,
values of more than 8 bits, sizes that exhaust memory.

    pixels = decode_picture(path.read_bytes(), size=32)  # uint8 [32, 32, 3]
"""

import concurrent.futures
import contextlib
import io
import os
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from privynet_jax.errors import UserError, first_line

with contextlib.suppress(ImportError):  # an extra
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
# What is read. Pillow knows more, some of which starts other programs (EPS) or is read by nobody.
_KINDS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")
FORMATS = tuple(kind for kind in _KINDS if kind in Image.OPEN)
# A 12000 x 12000 photograph still passes; decoded, it takes 432 MB.
MAX_PIXELS = 150_000_000
# Changes whenever other pixels are made of a file.
VERSION = 2
# Undeclared values of 16 bits that reach no further are no doubt of 9 to 13 bits.
_LEAST_WHITE = 2**13
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
# Pillow warns of odd metadata and of what is checked here. Filters are for all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadablePictureError(ValueError):
    """The bytes are no image that can be used; the message says why, without naming the file."""


def open_picture(data: bytes) -> Image.Image:
    """Returns an image of which only the header has been decoded.

    Raises:
        UnreadablePictureError: not one of `FORMATS`, damaged, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadablePictureError("the file is empty")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return picture
    except Image.DecompressionBombError:  # Pillow looks at the header too, before we can
        raise UnreadablePictureError(f"it has over {MAX_PIXELS:,} pixels; shrink it") from None
    except Image.UnidentifiedImageError:
        raise UnreadablePictureError(_what_else(data)) from None
    except Exception as error:  # readers of damaged headers raise all sorts of types
        raise UnreadablePictureError(f"it is damaged: {first_line(error)}") from None


def decode_picture(data: bytes, size: int) -> np.ndarray:
    """Returns an image's central square, resized, as uint8 [size, size, 3] RGB.

    The EXIF orientation is applied; palettes and greyscale become RGB; transparent pixels become
    white; colours are those of sRGB, by the embedded profile if there is a sound one; values of
    more than 8 bits are scaled to 8 by the range that the file states; of an animation, the first
    frame is used. Shrinking is antialiased (Lanczos). JPEGs of four times the size and more are
    shrunk while they are decoded, to no less than twice the size: ten times as quick, and of a
    photograph of 12 megapixels, pixels were off by 0.5 of 255 levels on average and by 14 at most.

    Args:
        data: the content of a file.
        size: side of the result in pixels.

    Raises:
        UnreadablePictureError: as of `open_picture`, or its range of values is unknown.
    """
    with open_picture(data) as stored:
        try:
            if stored.format in ("JPEG", "MPO"):
                stored.draft(None, (2 * size, 2 * size))
            profile, values = _profile(stored), _values(stored, data)
            image = ImageOps.exif_transpose(stored)
            if image.mode != "CMYK" or profile is None:
                image = _as_rgb(image, values)
            return np.asarray(_in_srgb(_resized(image, size), profile))
        except UnreadablePictureError:
            raise
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


def decoded_ahead(
    pictures: Iterable[tuple[str, bytes]], size: int, skip: bool
) -> Iterator[concurrent.futures.Future]:
    """Yields what will be `decode_or_skip` of (name, data), in their order, by all cores."""
    cores = os.cpu_count() or 1
    waiting: deque[concurrent.futures.Future] = deque()
    pool = concurrent.futures.ThreadPoolExecutor(cores)
    try:
        for name, data in pictures:
            waiting.append(pool.submit(decode_or_skip, data, size, name, skip))
            if len(waiting) > 2 * cores:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


def _what_else(data: bytes) -> str:
    """What a file is that is none of `FORMATS`, and what to do about it."""
    if data[4:8] == b"ftyp":
        return "it is HEIC or AVIF, for which pip install 'privynet_jax[heif]', or convert it"
    for kind, (_, accepts) in Image.OPEN.items():
        if accepts and accepts(data[:16]) and kind not in FORMATS:
            return f"it seems to be {kind}, which is not read; convert it to PNG"
    return "it is no image that Pillow knows"


class _Values(NamedTuple):
    """What a file says about values that it stores in more than 8 bits."""

    bits: int | None  # significant ones
    are_scaled: bool  # up to 16 bits, as PNG demands


def _values(stored: Image.Image, data: bytes) -> _Values | None:
    """None for 8 bits and less."""
    if stored.format == "PNG":
        if data[24] != 16:
            return None
        told = re.search(rb"\0\0\0[\1-\4]sBIT(.)", data[: data.find(b"IDAT")], re.DOTALL)
        return _Values(told[1][0] if told else None, are_scaled=True)
    if stored.format == "TIFF":
        bits = stored.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        if bits[0] <= 8:
            return None
        most = int(np.max(stored.tag_v2.get(_MAX_SAMPLE_VALUE, 0))) + 1
        # Of colours, Pillow has only the upper byte.
        told = [n for n in range(9, 17) if len(bits) == 1 and (n == bits[0] < 16 or 2**n == most)]
        return _Values(told[0] if told else None, are_scaled=False)
    return _Values(None, are_scaled=False) if stored.mode.startswith("I") else None


def _as_rgb(image: Image.Image, values: _Values | None) -> Image.Image:
    if image.mode == "F":
        raise UnreadablePictureError("it has floating-point values; convert it to 8 or 16 bits")
    if values and image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image, np.int64), values))
    elif values and values.bits is None:  # Pillow keeps the upper byte of colours
        _check_reach(257 * max(high for _, high in image.convert("RGB").getextrema()))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, told: _Values) -> np.ndarray:
    lowest, highest, bits = values.min(), values.max(), told.bits or 16
    if lowest < 0 or highest >= 2**16:
        raise UnreadablePictureError("it has signed or 32-bit values; convert it to 8 or 16 bits")
    if told.bits is None:
        _check_reach(highest)
    # Some store their bits as they are, though they should have scaled them up.
    if highest >= 2**bits or (told.are_scaled and not (values % 2 ** (16 - bits)).any()):
        bits = 16
    white = 2**bits - 1
    return np.uint8((255 * values + white // 2) // white)


def _check_reach(highest: int) -> None:
    if 0 < highest < _LEAST_WHITE:
        raise UnreadablePictureError(
            f"its 16-bit values reach {highest} alone, so it is unknown which of them is white; "
            "scale them to 0 .. 65535, or state their bits (PNG's sBIT, TIFF's MaxSampleValue)"
        )


def _profile(stored: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded profile, if it changes colours; a damaged one is ignored, as in browsers."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored.info.get("icc_profile") or b""))
        space = profile.profile.xcolor_space.strip()
        is_usual = "sRGB" in (profile.profile.profile_description or "")
    except (OSError, ImageCms.PyCMSError):
        return None
    fits = {
        "CMYK": stored.mode == "CMYK",
        "GRAY": stored.mode[0] in "1LI",
        "RGB": stored.mode != "CMYK",
    }
    return profile if fits.get(space) and not is_usual else None


def _in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    if profile is not None:
        mode = {"GRAY": "L"}.get(profile.profile.xcolor_space, image.mode)
        with contextlib.suppress(ImageCms.PyCMSError):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image.convert(mode), profile, srgb, outputMode="RGB")
    return image.convert("RGB")


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Pillow's `box` argument of resize would let the filter see pixels beyond the square.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)
