"""Files of pictures as tests need them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

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


def fill(folder, classes, *, seed=0, size=(20, 16)):
    """Writes `classes`: name -> number of pictures, all different."""
    stream = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = stream.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder
