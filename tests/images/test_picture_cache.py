"""Large files are decoded once, whatever they are called, and damage is decoded again."""

import errno
import io

import numpy as np
import pytest
from PIL import Image

from privynet_jax.images import copies, picture_cache
from privynet_jax.images.parts import load_parts
from privynet_jax.images.picture_cache import decode_cached
from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.images.tfds_source import decoded_folder

SIZE = 8


@pytest.fixture
def decoded(monkeypatch):
    """The sizes at which files were decoded."""
    sizes = []

    def decode(data, size, **options):
        sizes.append(size)
        return decode_picture(data, size, **options)

    monkeypatch.setattr(picture_cache, "decode_picture", decode)
    return sizes


def a_file(side=400, grey=None):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    if grey is not None:
        pixels = np.random.default_rng(0).integers(0, grey, (side, side), grey.dtype)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_large_file_is_decoded_once_for_each_size(tmp_path, decoded):
    deep = a_file(grey=np.uint16(4095))
    for white in (4095, 65535, 4095, 65535):
        found = decode_cached(tmp_path / "deep", deep, SIZE, reading=Reading(white))
        np.testing.assert_array_equal(found, decode_picture(deep, SIZE, reading=Reading(white)))
    assert decoded == [SIZE, SIZE]
    decoded.clear()
    for size in (SIZE, SIZE, 5, 5):
        found = decode_cached(tmp_path / "kept", a_file(), size)
        np.testing.assert_array_equal(found, decode_picture(a_file(), size))
    assert decoded == [SIZE, 5]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "kept").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_bytes(path.read_bytes()[:-1])  # damaged
    np.testing.assert_array_equal(
        decode_cached(tmp_path / "kept", a_file(), SIZE), decode_picture(a_file(), SIZE)
    )
    assert decoded == [SIZE, 5, SIZE]


def test_small_files_damaged_ones_and_full_disks_leave_nothing(tmp_path, decoded, monkeypatch):
    decode_cached(tmp_path / "kept", a_file(20), SIZE)
    with pytest.raises(UnreadablePictureError):
        decode_cached(tmp_path / "kept", a_file()[:-1000], SIZE)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_cache, "write_shared", refuse)
    decode_cached(tmp_path / "kept", a_file(), SIZE)
    assert not (tmp_path / "kept").exists() or not list((tmp_path / "kept").iterdir())


def test_beside_a_bucket_nothing_is_kept(tmp_path, decoded, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert decoded_folder("gs://some/where") is None
    for _ in range(2):
        decode_cached(None, a_file(), SIZE)
    assert decoded == [SIZE, SIZE]
    assert not list(tmp_path.iterdir())


def test_parts_come_out_of_the_cache(tmp_path, decoded):
    for number in range(8):
        (tmp_path / "pictures" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        place = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        place.write_bytes(a_file(390 + number))
    dataset = f"folder:{tmp_path / 'pictures'}"
    first, second = (load_parts(dataset, data_dir=tmp_path, image_size=SIZE) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert (
        sorted(decoded) == [SIZE] * 8 + [copies._DECODED] * 8
    )  # for itself, and to be compared with others
