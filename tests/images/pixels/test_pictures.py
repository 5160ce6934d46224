"""Every kind of file that people have becomes the right pixels, or a reason."""

import concurrent.futures
import io
import struct
import threading
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image
from support.picture_files import PIXELS, SIZE, encoded, png

from privynet_jax.images.pixels import pictures
from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import decode_picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_files_keep_their_pixels(kind):
    data = encoded(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode_picture(data, SIZE), PIXELS)


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
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63)
    with pytest.raises(UnreadablePictureError, match="over 63 pixels"):
        decode_picture(encoded_before_patch, SIZE)


encoded_before_patch = encoded(Image.fromarray(PIXELS))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_pictures_of_phones(kind):
    if kind not in pictures.FORMATS:
        pytest.skip(f"{kind} is an extra that is not installed")
    data = encoded(Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)), kind, quality=95)
    np.testing.assert_allclose(decode_picture(data, SIZE), PIXELS, atol=45)  # blurred edges


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(pictures, "FORMATS", ("JPEG", "PNG"))
    monkeypatch.setattr(Image, "OPEN", {kind: Image.OPEN[kind] for kind in pictures.FORMATS})
    with pytest.raises(UnreadablePictureError, match=r"it is HEIC; pip install pillow-heif"):
        decode_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", SIZE)


def test_large_jpegs_are_shrunk_while_they_are_decoded():
    photograph = Image.fromarray(skimage.data.astronaut()).resize((2000, 2000))
    data = encoded(photograph, "JPEG", quality=95)
    found = decode_picture(data, 32)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.abs(found.astype(int) - full).mean() < 1


def test_threads_wait_for_memory_and_whoever_wants_more_than_there_is_works_alone():
    bound, inside = pictures.MemoryBound(100), threading.Event()

    def work(count):
        with bound.take(count):
            inside.set()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        with bound.take(60):
            pool.submit(work, 40).result()
            inside.clear()
            waiting = pool.submit(work, 41)
            assert not inside.wait(0.05)
        waiting.result()
        with bound.take(1):
            inside.clear()
            waiting = pool.submit(work, 10**9)
            assert not inside.wait(0.05)
        waiting.result()


@pytest.mark.parametrize(("deep", "per_pixel"), [(False, 12), (True, 48)])
def test_decoding_takes_its_share_of_memory(monkeypatch, deep, per_pixel):
    taken, real = [], pictures.MemoryBound.take
    monkeypatch.setattr(
        pictures.MemoryBound, "take", lambda self, count: taken.append(count) or real(self, count)
    )
    pixels = np.uint16(PIXELS[..., 0]) * 257 if deep else PIXELS
    decode_picture(encoded(Image.fromarray(pixels)), 4)
    assert taken == [per_pixel * SIZE * SIZE]
