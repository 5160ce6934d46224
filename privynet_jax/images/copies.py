"""Which pictures show the same, whatever their file's format, size and compression.

    groups = groups_of_copies(paths)  # int64 [N]: of each picture the first one that shows the same

`folders` keeps copies on one side of every split by it, releases leave them out. Pictures are
compared as networks would see them: upright, central square, RGB.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from privynet_jax.images.colours import UnreadablePictureError
from privynet_jax.images.decoding import Decoder, StoredImage, decode_picture, pool_of_decoders
from privynet_jax.platform.progress import Bar

# Pictures are compared as thumbnails of so many pixels, and found by means over blocks of them.
# More are decoded, because what JPEG decodes at an eighth of its size may be shifted by a little.
_DECODED, _SIDE, _BLOCKS = 64, 16, 4
# JPEG's: brightness, and two of colour, which it stores coarsely.
_YCBCR = np.float32([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
# Root mean squares, of 255, up to which pictures are the same: constant, and per unit of detail,
# which is what saving again and resizing change; beyond some detail no more.
_BRIGHTNESS, _COLOUR, _MOST_DETAIL = (0.7, 0.4), (0.6, 0.25), 8.0
_AT_ONCE = 1024


def groups_of_copies(
    pictures: Sequence[StoredImage], decode: Decoder = decode_picture
) -> np.ndarray:
    """Returns int64 [N]: of each picture, the number of the first one that shows the same.

    Copies are files of equal bytes, and pictures whose thumbnails differ by no more than saving
    and resizing explains. Perceptual hashes would miss them: of smooth pictures, saved again as
    JPEG of quality 60, half of the 64 bits of imagehash's `phash` differ, of patches of 32 x 32
    pixels up to 29, while gradients of nearly equal colours may agree in all.

    Measured on 19 photographs of scikit-image and scikit-learn, as they are and at 224 and 64
    pixels: saved again as JPEG of quality 95 to 60 or as WebP of 60, halved, or both, all are
    found, but for one of those of 64 pixels that were halved and saved at 60. Of 316 patches of 32
    pixels, JPEG of 95, 75 and 60 leaves 100, 99.7 and 93 % to be found, halving by Lanczos 88 %, by
    the softer bilinear filter 11 %. No two of the photographs are taken for copies; of the 44.7
    million pairs of photo_patches a dozen are, all of overlapping patches along a straight edge.
    Gradients that differ by two grey levels in one colour are different. A JPEG of 12
    megapixels takes 26 ms on two cores.

    Pictures that cannot be decoded are only compared by their bytes.
    """
    digests, thumbnails = [], []
    with pool_of_decoders() as pool:
        looks = pool.map(functools.partial(_look_at, decode), pictures)
        for digest, pixels in Bar(
            looks, "comparing pictures", len(pictures), unit="picture", delay=2
        ):
            digests.append(digest)
            thumbnails.append(pixels)
    first: dict[bytes, int] = {}
    groups = np.array([first.setdefault(each, n) for n, each in enumerate(digests)], np.int64)
    shown = np.array([n for n in first.values() if thumbnails[n] is not None], np.int64)
    representative = np.arange(len(groups))
    if len(shown):
        pairs = list(_same(np.stack([thumbnails[n] for n in shown])))
        one, other = np.array(pairs, np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(shown), len(shown)))
        _, component = connected_components(graph, directed=False)
        _, firsts = np.unique(component, return_index=True)
        representative[shown] = shown[firsts[component]]
    return representative[groups]


def _look_at(decode: Decoder, picture: StoredImage) -> tuple[bytes, np.ndarray | None]:
    """The digest of a picture's bytes, and its thumbnail uint8 [16, 16, 3] where it has one."""
    data = picture.read_bytes()
    try:
        picture = Image.fromarray(decode(data, _DECODED))
        pixels = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    except UnreadablePictureError:  # told by whoever decodes it to be used
        pixels = None
    return hashlib.sha256(data).digest(), pixels


def _same(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields pairs of numbers of thumbnails uint8 [N, 16, 16, 3] that show the same."""
    converted = np.float32(thumbnails) @ _YCBCR
    brightness, colour = converted[..., 0], _block_means(converted[..., 1:])
    detail = np.minimum(_detail(brightness), _MOST_DETAIL)
    limits = [least + slope * detail for least, slope in (_BRIGHTNESS, _COLOUR)]
    # Means of blocks differ by no more than their pixels, so the tree misses no pair.
    points = _block_means(brightness[..., None]).reshape(len(thumbnails), -1)
    tree = cKDTree(points)
    for start in range(0, len(points), _AT_ONCE):
        chunk = slice(start, start + _AT_ONCE)
        near = tree.query_ball_point(points[chunk], _BLOCKS * limits[0][chunk] + 1e-3, workers=-1)
        for number, found in enumerate(near, start):
            others = np.array([other for other in found if other < number], int)
            same = np.ones(len(others), bool)
            for values, limit in zip((brightness, colour), limits, strict=True):
                squares = np.square(values[others] - values[number])
                rms = np.sqrt(squares.mean(axis=tuple(range(1, squares.ndim))))
                same &= rms <= np.minimum(limit[others], limit[number])
            yield from ((int(other), number) for other in others[same])


def _block_means(x: np.ndarray) -> np.ndarray:
    """[N, 16, 16, C] -> [N, 4, 4, C]."""
    block = _SIDE // _BLOCKS
    return x.reshape(len(x), _BLOCKS, block, _BLOCKS, block, -1).mean(axis=(2, 4))


def _detail(x: np.ndarray) -> np.ndarray:
    """[N, 16, 16] -> [N]: how much pixels deviate from their neighbours; as white noise does."""
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    deviation = (4 * x[:, 1:-1, 1:-1] - around) / np.sqrt(20)
    return np.sqrt(np.square(deviation).mean(axis=(1, 2)))
