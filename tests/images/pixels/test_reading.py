"""What a user says of pictures: whole ones with margins, windows, and what a plan said before."""

import io

import numpy as np
import pytest
from PIL import Image

from privynet_jax.errors import UserError
from privynet_jax.images.picture_cache import decode_cached
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading, window_of

PAD = Reading(fit="pad")


def png(pixels, mode=None, kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode or "RGB").save(content, kind)
    return content.getvalue()


def picture(height, width):
    return np.random.default_rng(0).integers(100, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 8), (8, 16), (64, 32), (31, 64), (9, 9)])
def test_all_of_a_picture_is_there_between_black_margins(height, width):
    found = decode_picture(png(picture(height, width)), 16, reading=PAD)
    assert found.shape == (16, 16, 3)
    inside = found.max(axis=2) > 50
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    scale = 16 / max(height, width)
    assert (len(rows), len(columns)) == (round(height * scale), round(width * scale))
    assert inside[np.ix_(rows, columns)].all()
    assert not found[~inside].any()
    # As wide on both sides, but for a pixel.
    assert abs(rows[0] - (15 - rows[-1])) <= 1
    assert abs(columns[0] - (15 - columns[-1])) <= 1


def test_squares_are_the_same_either_way():
    for side in (16, 40):
        data = png(picture(side, side))
        np.testing.assert_array_equal(
            decode_picture(data, 16, reading=PAD), decode_picture(data, 16)
        )


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "TIFF"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG")]
)
def test_margins_are_black_in_every_colour_space(mode, kind):
    found = decode_picture(png(np.full((8, 32, 3), 255, np.uint8), mode, kind), 16, reading=PAD)
    assert not found[:5].any()
    assert not found[11:].any()
    assert found[7:9].min() > 250


def test_what_is_transparent_is_white_and_margins_are_not():
    content = io.BytesIO()
    Image.new("RGBA", (32, 16), (0, 0, 0, 0)).save(content, "PNG")
    found = decode_picture(content.getvalue(), 16, reading=PAD)
    assert (found[4:12] == 255).all()
    assert not found[:4].any()


def test_the_cache_keeps_readings_apart(tmp_path):
    data = png(np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8))
    assert len(data) > 2**18
    for reading in (AS_FILES_SAY, PAD, AS_FILES_SAY):
        found = decode_cached(tmp_path / "kept", data, 16, reading=reading)
        np.testing.assert_array_equal(found, decode_picture(data, 16, reading=reading))
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_what_was_said_before_holds():
    planned = Reading(4095, "pad", (40.0, 400.0))
    assert AS_FILES_SAY.agreed(planned) == planned == planned.agreed(planned)
    assert Reading(4095, "crop", (40.0, 400.0)).agreed(PAD) == planned
    for given, message in (
        (Reading(1023), "--sixteen_bit_max is 1023, but .* with 4095; leave the flag out"),
        (Reading(dicom_window=(1, 2)), "--dicom_window is 1,2, but .* with 40,400; leave"),
    ):
        with pytest.raises(UserError, match=rf"^[^\n]*{message}[^\n]*$"):
            given.agreed(planned)
    assert not AS_FILES_SAY.told()
    assert Reading(fit="pad").told() != Reading(4095).told() != ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sixteen_bit_max": -1}, "--sixteen_bit_max is -1; allowed are 0 to 65535"),
        ({"fit": "squash"}, "--fit is 'squash'; allowed are crop, pad"),
        ({"dicom_window": (40.0, 0.0)}, "--dicom_window is 40,0; give CENTRE,WIDTH"),
        ({"dicom_window": (float("nan"), 9.0)}, "--dicom_window is nan,9; give"),
    ],
)
def test_what_cannot_be_said(values, message):
    with pytest.raises(UserError, match=message):
        Reading(**values)


def test_windows_as_flags_give_them():
    assert window_of("") is None
    assert window_of("-600,1500") == (-600.0, 1500.0)
    for text in ("40", "40,400,1", "lung", "40,0.5", "inf,3", ","):
        with pytest.raises(UserError, match=r"--dicom_window is .*; give CENTRE,WIDTH"):
            window_of(text)
