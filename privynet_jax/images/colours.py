"""From the values that a picture's file holds to RGB of 8 bits: depth, transparency, profiles.

What Pillow leaves open of it; `decoding` calls. Pillow knows of 16 bits that there are 16, but not
how many of them a camera or a scanner used, and keeps of 16-bit colours the upper byte alone.
"""

import contextlib
import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

# Undeclared values of 16 bits that reach no further are no doubt of 9 to 13 bits.
_LEAST_WHITE = 2**13
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF


class UnreadablePictureError(ValueError):
    """The bytes are no image that can be used; the message says why, without naming the file."""


class Values(NamedTuple):
    """What a file says about values that it stores in more than 8 bits."""

    bits: int | None  # significant ones
    are_scaled: bool  # up to 16 bits, as PNG demands


def stated_values(stored: Image.Image, data: bytes) -> Values | None:
    """Returns what an opened file says about its values; None for 8 bits and less."""
    if stored.format == "PNG":
        if data[24] != 16:
            return None
        told = re.search(rb"\0\0\0[\1-\4]sBIT(.)", data[: data.find(b"IDAT")], re.DOTALL)
        return Values(told[1][0] if told else None, are_scaled=True)
    if stored.format == "TIFF":
        bits = stored.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        if bits[0] <= 8:
            return None
        most = int(np.max(stored.tag_v2.get(_MAX_SAMPLE_VALUE, 0))) + 1
        # Of colours, Pillow has only the upper byte.
        told = [n for n in range(9, 17) if len(bits) == 1 and (n == bits[0] < 16 or 2**n == most)]
        return Values(told[0] if told else None, are_scaled=False)
    depth = {"PPM": _depth_of_ppm, "JPEG2000": _depth_of_jpeg2000}.get(stored.format)
    bits = depth(stored, data) if depth else 8
    # Pillow has scaled up what is declared.
    return None if bits <= 8 else Values(None if bits == 16 else 16, are_scaled=True)


def _depth_of_ppm(stored: Image.Image, data: bytes) -> int:
    arguments = stored.tile[0].args
    if isinstance(arguments, tuple) and stored.mode != "F":
        return int(arguments[1]).bit_length()
    return 16 if stored.mode == "I" else 8


def _depth_of_jpeg2000(stored: Image.Image, data: bytes) -> int:
    sizes = data.find(b"\xff\x4f\xff\x51")  # the markers that a code stream begins with
    return 1 + (data[sizes + 42] & 127)


def as_rgb(image: Image.Image, values: Values | None, white: int = 0) -> Image.Image:
    """Returns RGB of 8 bits, transparent pixels white; UnreadablePictureError for odd values.

    `white` is the largest grey value of files that state no range; 0 where that is unknown.
    """
    if image.mode == "F":
        raise UnreadablePictureError("it has floating-point values; convert it to 8 or 16 bits")
    if values and image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image, np.int64), values, white))
    elif values and values.bits is None and white < 2**16 - 1:  # of colours, only bytes are kept
        _check_reach(257 * max(high for _, high in image.convert("RGB").getextrema()))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, told: Values, white: int) -> np.ndarray:
    lowest, highest, bits = values.min(), values.max(), told.bits or 16
    if lowest < 0 or highest >= 2**16:
        raise UnreadablePictureError("it has signed or 32-bit values; convert it to 8 or 16 bits")
    if told.bits is None and white:
        if highest > white:
            raise UnreadablePictureError(f"its 16-bit values reach {highest}; white is {white}")
        return np.uint8((255 * values + white // 2) // white)
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
            "give --sixteen_bit_max, such as 4095 for 12 bits of grey, or scale them to 0 .. 65535"
        )


def embedded_profile(stored: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Returns the profile of colours other than sRGB's; browsers, too, ignore damaged ones."""
    if not stored.info.get("icc_profile"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored.info["icc_profile"]))
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


def in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    """Returns RGB, converted by a profile if there is one."""
    if profile is not None:
        mode = {"GRAY": "L"}.get(profile.profile.xcolor_space, image.mode)
        with contextlib.suppress(ImageCms.PyCMSError):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image.convert(mode), profile, srgb, outputMode="RGB")
    return image.convert("RGB")
