"""From the values that a picture's file holds to RGB of 8 bits: depth, transparency, profiles.

What Pillow leaves open of it; `pictures` calls. Pillow knows of 16 bits that there are 16, but not
how many of them a camera or a scanner used, and keeps of 16-bit colours the upper byte alone.
"""

import contextlib
import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

# Values of 16 bits of which all but a few burnt-in ones are smaller may be of 9 to 15 bits; stated
# ones, which are often stated for all that a program writes, of 9 to 13.
_LEAST_UNSTATED, _LEAST_STATED = 2**15, 2**13
_ALL_BUT_FEW = 0.999
# What cameras and scanners have, and ImageJ offers as ranges.
_USUAL_BITS = (10, 12, 14, 15)
_BITS_PER_SAMPLE, _DESCRIPTION, _MAX_SAMPLE_VALUE = 258, 270, 281  # tags of TIFF


class UnreadablePictureError(ValueError):
    """The bytes are no image that can be used; the message says why, without naming the file."""


class Values(NamedTuple):
    """What a file says about values that it stores in more than 8 bits."""

    bits: int | None  # significant ones
    are_scaled: bool  # up to 16 bits, as PNG demands
    least: int = 0  # whose values reach no further are too dark to be believed


def stated_values(stored: Image.Image, data: bytes) -> Values | None:
    """Returns what an opened file says about its values; None for 8 bits and less."""
    if stored.format == "PNG":
        if data[24] != 16:
            return None
        told = re.search(rb"\0\0\0[\1-\4]sBIT(.)", data[: data.find(b"IDAT")], re.DOTALL)
        bits = told[1][0] if told else None
        least = _least_reach(bits)
        if bits and bits < 16 and not stored.mode.startswith("I"):
            least = 2**bits  # whose lower bytes, which tell more, Pillow does not keep
        return Values(bits, are_scaled=True, least=least)
    if stored.format == "TIFF":
        bits = stored.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        if bits[0] <= 8:
            return None
        most = int(np.max(stored.tag_v2.get(_MAX_SAMPLE_VALUE, 0)))
        told = [n for n in range(9, 17) if n == bits[0] < 16 or 2**n - 1 == most]
        told += _bits_shown(str(stored.tag_v2.get(_DESCRIPTION, "")))
        # Of colours, Pillow has only the upper byte.
        bits = min(told, default=None) if len(bits) == 1 else None
        return Values(bits, are_scaled=False, least=_least_reach(bits))
    depth = {"PPM": _depth_of_ppm, "JPEG2000": _depth_of_jpeg2000}.get(stored.format)
    bits = depth(stored, data) if depth else 8
    if bits == 16:
        return Values(None, are_scaled=True, least=_LEAST_UNSTATED)
    # Pillow has scaled up what is declared.
    return None if bits <= 8 else Values(16, are_scaled=True)


def _bits_shown(description: str) -> list[int]:
    """Bits that ImageJ's display range covers; others are made for each picture by itself."""
    shown = re.match(r"ImageJ=.*^min=0(\.0*)?$.*^max=(\d+)(\.0*)?$", description, re.S | re.M)
    return [bits for bits in _USUAL_BITS if shown and 2**bits - 1 == int(shown[2])]


def _least_reach(bits: int | None) -> int:
    if bits is None:
        return _LEAST_UNSTATED
    return _LEAST_STATED if bits == 16 else 0


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

    `white` is the largest grey value of files that state no range, or one that is too wide to be
    believed; 0 where that is unknown.
    """
    if image.mode == "F":
        raise UnreadablePictureError("it has floating-point values; convert it to 8 or 16 bits")
    if values and image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image, np.int64), values, white))
    elif values and white < 2**16 - 1:  # of colours, only upper bytes are kept
        counts = np.reshape(image.convert("RGB").histogram(), (3, -1)).sum(axis=0)
        if 0 < (reach := 257 * _reach(counts)) < values.least:
            raise _ambiguous(reach, "the file scaled to 0 .. 65535, or")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, told: Values, white: int) -> np.ndarray:
    if values.min() < 0 or values.max() >= 2**16:
        raise UnreadablePictureError("it has signed or 32-bit values; convert it to 8 or 16 bits")
    reach = _reach(np.bincount(values.ravel()))
    if told.bits and not told.are_scaled and reach >= 2**told.bits:
        told = Values(None, are_scaled=False, least=_LEAST_UNSTATED)  # it is not true
    if white and (told.bits is None or reach < told.least):
        if reach > white:
            raise UnreadablePictureError(
                f"its 16-bit values reach {reach}; white is {white}: give "
                f"--sixteen_bit_max={_least_white(reach)} for all pictures"
            )
        return _scaled(values, white)
    if 0 < reach < told.least:
        raise _ambiguous(reach, f"--sixteen_bit_max={_least_white(reach)} if that is white, or")
    bits = told.bits or 16
    # Some store their bits as they are, though they should have scaled them up.
    if reach >= 2**bits or (told.are_scaled and not (values % 2 ** (16 - bits)).any()):
        bits = 16
    return _scaled(values, 2**bits - 1)


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    return np.uint8((255 * np.minimum(values, white) + white // 2) // white)


def _reach(counts: np.ndarray) -> int:
    """The largest of counted values but for a few, as of letters that were put into a picture."""
    counts[0] = 0  # black margins say nothing
    up_to = counts.cumsum()
    return int(np.searchsorted(up_to, 1 + int(_ALL_BUT_FEW * (up_to[-1] - 1)))) if up_to[-1] else 0


def _least_white(reach: int) -> int:
    """White of the fewest usual bits that hold a value."""
    return next((2**bits - 1 for bits in _USUAL_BITS if reach < 2**bits), 2**16 - 1)


def _ambiguous(reach: int, way_out: str) -> UnreadablePictureError:
    return UnreadablePictureError(
        f"its 16-bit values reach {reach} alone, so it is unknown which of them is white; give "
        f"{way_out} --sixteen_bit_max=65535 if pictures are that dark"
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
