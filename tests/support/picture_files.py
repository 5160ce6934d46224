"""Files of pictures as tests need them."""

import io
import struct
import zlib

import numpy as np

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
