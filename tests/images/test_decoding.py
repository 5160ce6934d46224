"""Every kind of file that people have becomes the right pixels, or a reason."""

import errno
import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

from privynet_jax.errors import UserError
from privynet_jax.images import decoding
from privynet_jax.images.decoding import UnreadablePictureError, decode_picture

SIZE = 8
# Four quadrants of different colours, so that a turned or mirrored picture is noticed.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
PIXELS = COLOURS.repeat(SIZE // 2, axis=0).repeat(SIZE // 2, axis=1)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(chunks):
    parts = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        parts += struct.pack(">I", len(content)) + kind + content + checksum
    return parts


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_files_keep_their_pixels(kind):
    data = encoded(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode_picture(data, SIZE), PIXELS)


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


def test_values_of_twelve_bits_become_all_of_eight():
    raw, scaled = encoded(Image.fromarray(STEPS)), encoded(Image.fromarray(STEPS << 4 | STEPS >> 8))
    for data in (
        with_significant_bits(raw, [12]),  # as some write it
        with_significant_bits(scaled, [12]),  # as PNG demands
        encoded(Image.fromarray(STEPS), "TIFF", tiffinfo={281: 4095}),
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
    found = decode_picture(grey, SIZE, sixteen_bit_max=4095)
    np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    with pytest.raises(UnreadablePictureError, match="reach 4095; white is 1023"):
        decode_picture(grey, SIZE, sixteen_bit_max=1023)
    with pytest.raises(UnreadablePictureError, match="alone"):  # of which Pillow keeps 4 bits
        decode_picture(colours, SIZE, sixteen_bit_max=4095)
    marked = Image.fromarray(with_burnt_in_pixel(STEPS))
    for data in (encoded(marked), with_significant_bits(grey, [16])):
        found = decode_picture(data, SIZE, sixteen_bit_max=4095)
        np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    # Who states fewer bits than 16 is believed, burnt-in pixels or not.
    found = decode_picture(with_significant_bits(encoded(marked), [12]), SIZE)
    np.testing.assert_array_equal(found[0, ::2, 1], IN_EIGHT_BITS)
    for dark in (grey, colours):
        assert decode_picture(dark, SIZE, sixteen_bit_max=65535).max() in (15, 16)


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


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (6, 3), (3, 2), (8, 1)])
def test_exif_orientation_is_applied(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    # np.rot90 turns anticlockwise; orientation 6 says: turn clockwise to view.
    np.testing.assert_array_equal(decode_picture(data, SIZE), np.rot90(PIXELS, turned))


def test_the_central_square_is_used():
    stripes = np.repeat([0, 200, 0], [4, 12, 4]).astype(np.uint8)
    data = encoded(Image.fromarray(np.broadcast_to(stripes, (12, 20))))
    assert set(decode_picture(data, 6).flat) == {200}


def _png_of_size(width, height):
    """A PNG whose header promises far more pixels than it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")])


NOISE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Image.fromarray(PIXELS.repeat(16, 0).repeat(16, 1)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "no image that Pillow knows"),
        (JPEG[: len(JPEG) // 2], "(?i)truncated"),
        (NOISE[: len(NOISE) // 2], "damaged"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
            "it seems to be EPS, which is not read",
        ),
        (encoded(Image.fromarray(PIXELS), "ICO"), "it seems to be ICO, which is not read"),
        (NOISE[:12], "it is a damaged or unusual PNG"),
        (_png_of_size(100_000, 100_000), "over 150,000,000 pixels"),
        (_png_of_size(8, 8), "damaged"),
        (encoded(Image.fromarray(np.ones((SIZE, SIZE), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(UnreadablePictureError, match=reason) as raised:
        decode_picture(data, SIZE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", range(1, 17))
def test_files_of_a_few_bytes_are_unreadable(length):
    for start in (b"\0", b"(", b"a", b"\xff\xd8\xff\xe0", b"\x89PNG"):
        with pytest.raises(UnreadablePictureError, match=r"^it (is|seems)"):
            decode_picture((start * 16)[:length], SIZE)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63)
    with pytest.raises(UnreadablePictureError, match="over 63 pixels"):
        decode_picture(encoded_before_patch, SIZE)


encoded_before_patch = encoded(Image.fromarray(PIXELS))


def test_a_full_temporary_folder_is_an_error_and_no_crash(monkeypatch):
    monkeypatch.setattr(decoding, "_MOST_BYTES_IN_MEMORY", 0)
    assert decoding._allocate((2, 3, 3, 3)).shape == (2, 3, 3, 3)

    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, f"no room for {length} bytes")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="no room for 54 bytes"):
        decoding._allocate((2, 3, 3, 3))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_pictures_of_phones(kind):
    if kind not in decoding.FORMATS:
        pytest.skip(f"{kind} is an extra that is not installed")
    data = encoded(Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)), kind, quality=95)
    np.testing.assert_allclose(decode_picture(data, SIZE), PIXELS, atol=45)  # blurred edges


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(decoding, "FORMATS", ("JPEG", "PNG"))
    monkeypatch.setattr(Image, "OPEN", {kind: Image.OPEN[kind] for kind in decoding.FORMATS})
    with pytest.raises(UnreadablePictureError, match=r"it is HEIC; .* 'privynet_jax\[heif\]'"):
        decode_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", SIZE)


def test_large_jpegs_are_shrunk_while_they_are_decoded():
    photograph = Image.fromarray(skimage.data.astronaut()).resize((2000, 2000))
    data = encoded(photograph, "JPEG", quality=95)
    found = decode_picture(data, 32)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.abs(found.astype(int) - full).mean() < 1


def test_decoding_ahead_keeps_the_order_and_tells_late():
    good, bad = encoded(Image.fromarray(PIXELS)), b"no picture"
    pictures = [("a", good), ("b", bad), *[("c", good)] * 20]
    decoded = decoding.decoded_ahead(iter(pictures), SIZE, skip=True)
    missing = [place for place, ahead in enumerate(decoded) if ahead.result() is None]
    assert missing == [1]
    decoded = decoding.decoded_ahead(iter(pictures), SIZE, skip=False)
    next(decoded).result()
    with pytest.raises(UserError, match=r"cannot use b: .*--skip_unreadable"):
        next(decoded).result()
