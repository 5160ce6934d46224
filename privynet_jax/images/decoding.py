"""Decodes image files of every kind that people have, to one size and colour space.

`parts` hands over bytes as they were stored, and gets uint8 RGB squares. Pillow does the decoding;
here is what it leaves open: orientation, transparency, 16-bit values, sizes that exhaust memory.

    pixels = decode_picture(path.read_bytes(), size=32)  # uint8 [32, 32, 3]
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from privynet_jax.errors import UserError

# A 12000 x 12000 photograph still passes; decoded, it takes 432 MB.
MAX_PIXELS = 150_000_000
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnreadablePictureError(f"it is damaged: {reason}") from None


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
