"""Every kind of file that people have becomes the right pixels, or a reason."""

import errno
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

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
    chunks = b""
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        chunks += struct.pack(">I", len(content)) + kind + content + checksum
    return b"\x89PNG\r\n\x1a\n" + chunks


NOISE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Image.fromarray(PIXELS.repeat(16, 0).repeat(16, 1)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "no image that Pillow knows"),
        (JPEG[: len(JPEG) // 2], "(?i)truncated"),
        (NOISE[: len(NOISE) // 2], "damaged"),
        (_png_of_size(100_000, 100_000), "over 150,000,000 pixels"),
        (_png_of_size(8, 8), "damaged"),
        (encoded(Image.fromarray(np.ones((SIZE, SIZE), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(UnreadablePictureError, match=reason) as raised:
        decode_picture(data, SIZE)
    assert "\n" not in str(raised.value)


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
