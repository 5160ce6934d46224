"""Values of any depth and colour space become RGB of 8 bits, or a reason."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.picture_files import PIXELS, SIZE, encoded, png

from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading


def test_palette_and_greyscale_become_rgb():
    palette = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(decode_picture(encoded(palette), SIZE), PIXELS)
    grey = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    found = decode_picture(encoded(Image.fromarray(grey)), SIZE)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=-1))
    bilevel = Image.fromarray(np.eye(SIZE, dtype=bool))
    np.testing.assert_array_equal(
        decode_picture(encoded(bilevel), SIZE)[..., 1], 255 * np.eye(SIZE)
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind):
    values = np.array([0, 257, 128 * 257, 65535], np.uint16)
    grey = np.tile(values.repeat(2), (SIZE, 1))
    found = decode_picture(encoded(Image.fromarray(grey), kind), SIZE)
    np.testing.assert_array_equal(found[0, ::2, 0], [0, 1, 128, 255])


STEPS = np.tile(np.uint16([0, 1024, 2047, 4095]).repeat(2), (SIZE, 1))  # of 12 bits
IN_EIGHT_BITS = [0, 64, 127, 255]


def with_significant_bits(png, bits):
    """A PNG with an sBIT chunk after its header."""
    content = b"sBIT" + bytes(bits)
    chunk = struct.pack(">I", len(bits)) + content + struct.pack(">I", zlib.crc32(content))
    return png[:33] + chunk + png[33:]


def tiff_of_twelve_bits():
    """A TIFF that packs two values into three bytes, as cameras write it; Pillow does not."""
    first, second = STEPS[:, ::2].astype(int), STEPS[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    pixels = packed.astype(np.uint8).tobytes()
    tags = [(256, 4, SIZE), (257, 4, SIZE), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, SIZE), (279, 4, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    end = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + end


def described(values, least, most):
    """A TIFF with the display range that ImageJ writes into every one of 16 bits."""
    text = f"ImageJ=1.54f\nunit=pixel\nmin={least}\nmax={most}\n"
    return encoded(Image.fromarray(values), "TIFF", tiffinfo={270: text})


def test_values_of_twelve_bits_become_all_of_eight():
    raw, scaled = encoded(Image.fromarray(STEPS)), encoded(Image.fromarray(STEPS << 4 | STEPS >> 8))
    for data in (
        with_significant_bits(raw, [12]),  # as some write it
        with_significant_bits(scaled, [12]),  # as PNG demands
        encoded(Image.fromarray(STEPS), "TIFF", tiffinfo={281: 4095}),
        described(STEPS, "0.0", "4095.0"),
        tiff_of_twelve_bits(),
        b"P5 8 8 4095\n" + STEPS.astype(">u2").tobytes(),
        b"P6 8 8 4095\n" + STEPS.repeat(3).astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(decode_picture(data, SIZE)[0, ::2, 1], IN_EIGHT_BITS)
    # Said to be dark.
    dark = with_significant_bits(encoded(Image.fromarray(STEPS >> 4 << 4)), [12])
    assert decode_picture(dark, SIZE).max() == 16


def png_of_sixteen_bit_colours(values):
    rows = np.zeros((SIZE, 1 + SIZE * 6), np.uint8)
    rows[:, 1:] = values.astype(">u2").repeat(3).view(np.uint8).reshape(SIZE, -1)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")])


def with_burnt_in_pixel(values):
    values = values.copy()
    values[-1, -1] = 65535
    return values


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(STEPS)),
        encoded(Image.fromarray(STEPS), "TIFF"),
        encoded(Image.fromarray(STEPS), "JPEG2000"),
        b"P5 8 8 65535\n" + STEPS.astype(">u2").tobytes(),
        b"P6 8 8 65535\n" + STEPS.repeat(3).astype(">u2").tobytes(),
        png_of_sixteen_bit_colours(STEPS),
        encoded(Image.fromarray(4 * STEPS)),  # of 14 bits
        encoded(Image.fromarray(8 * STEPS), "TIFF"),  # of 15 bits
        # What programs state of all that they write.
        with_significant_bits(encoded(Image.fromarray(STEPS)), [16]),
        encoded(Image.fromarray(STEPS), "TIFF", tiffinfo={281: 65535}),
        # ImageJ's range of this picture alone, and ranges that leave out darker or lighter values.
        described(STEPS - np.uint16(1) * (STEPS == 4095), "0.0", "4094.0"),
        described(STEPS, "17.0", "4095.0"),
        described(STEPS, "0.0", "1023.0"),
        encoded(Image.fromarray(STEPS), "TIFF", tiffinfo={281: 1023}),
        with_significant_bits(png_of_sixteen_bit_colours(STEPS), [16] * 3),
        with_significant_bits(png_of_sixteen_bit_colours(STEPS), [12] * 3),
        encoded(Image.fromarray(with_burnt_in_pixel(STEPS))),
    ],
)
def test_sixteen_bits_of_which_few_are_used_are_ambiguous(data):
    with pytest.raises(
        UnreadablePictureError, match=r"16-bit values reach \d+ alone.*--sixteen_bit_max"
    ):
        decode_picture(data, SIZE)


def test_somebody_may_say_what_is_white():
    grey, colours = encoded(Image.fromarray(STEPS)), png_of_sixteen_bit_colours(STEPS)
    found = decode_picture(grey, SIZE, reading=Reading(4095))
    np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    with pytest.raises(UnreadablePictureError, match="white is 1023: give --sixteen_bit_max=4095"):
        decode_picture(grey, SIZE, reading=Reading(1023))
    with pytest.raises(UnreadablePictureError, match="alone"):  # of which Pillow keeps 4 bits
        decode_picture(colours, SIZE, reading=Reading(4095))
    marked = Image.fromarray(with_burnt_in_pixel(STEPS))
    for data in (encoded(marked), with_significant_bits(grey, [16])):
        found = decode_picture(data, SIZE, reading=Reading(4095))
        np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    # Who states fewer bits than 16 is believed, burnt-in pixels or not.
    found = decode_picture(with_significant_bits(encoded(marked), [12]), SIZE)
    np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    for dark in (grey, colours):
        assert decode_picture(dark, SIZE, reading=Reading(65535)).max() in (15, 16)


@pytest.mark.parametrize(
    ("reach", "white"), [(900, 1023), (1023, 1023), (1024, 4095), (9000, 16383), (16384, 32767)]
)
def test_the_refusal_names_the_number_that_fits(reach, white):
    grey = encoded(Image.fromarray(np.full((SIZE, SIZE), reach, np.uint16)))
    told = f"reach {reach} alone.* give --sixteen_bit_max={white} if .* --sixteen_bit_max=65535 if"
    with pytest.raises(UnreadablePictureError, match=told):
        decode_picture(grey, SIZE)
    assert decode_picture(grey, SIZE, reading=Reading(white)).max() == round(255 * reach / white)


def test_sixteen_bit_colours():
    found = decode_picture(png_of_sixteen_bit_colours(STEPS << 4 | STEPS >> 8), SIZE)
    np.testing.assert_allclose(found[0, ::2, 1], IN_EIGHT_BITS, atol=1)
    assert decode_picture(png_of_sixteen_bit_colours(0 * STEPS), SIZE).max() == 0
    signed = encoded(Image.fromarray(np.int32(STEPS) - 1000), "TIFF")
    with pytest.raises(UnreadablePictureError, match="signed or 32-bit values"):
        decode_picture(signed, SIZE)


def profile(primaries="wide"):
    """An ICC profile: of a wide space whose red and green are swapped, or damaged, or sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if primaries == "damaged":
        return bytes(data[:200])
    if primaries == "swapped":
        red, green = data.find(b"rXYZ"), data.find(b"gXYZ")
        data[red : red + 1], data[green : green + 1] = b"g", b"r"
        at = data.find("sRGB".encode("utf-16-be"))
        data[at + 1 : at + 2] = b"x"  # the description, by which sRGB is known
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_are_those_of_srgb(kind):
    def decoded(**options):
        settings = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
        image = Image.fromarray(PIXELS)
        return decode_picture(encoded(image, kind, **settings.get(kind, {}), **options), SIZE)

    plain = decoded()
    swapped = decoded(icc_profile=profile("swapped"))
    np.testing.assert_allclose(swapped, plain[..., [1, 0, 2]], atol=6)
    for harmless in ("damaged", "sRGB"):
        np.testing.assert_array_equal(decoded(icc_profile=profile(harmless)), plain)


def test_transparency_becomes_white():
    alpha = np.zeros((SIZE, SIZE, 1), np.uint8)
    alpha[:, : SIZE // 2] = 255
    found = decode_picture(encoded(Image.fromarray(np.dstack([PIXELS, alpha]))), SIZE)
    np.testing.assert_array_equal(found[:, : SIZE // 2], PIXELS[:, : SIZE // 2])
    assert (found[:, SIZE // 2 :] == 255).all()


def test_cmyk_is_converted():
    cyan = Image.new("CMYK", (SIZE, SIZE), (255, 0, 0, 0))
    found = decode_picture(encoded(cyan, "JPEG", quality=95), SIZE)
    np.testing.assert_allclose(found[0, 0], [0, 255, 255], atol=3)  # JPEG loses a little
