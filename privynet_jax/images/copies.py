"""Which pictures show the same, whatever their file's format, size and compression.

    groups = groups_of_copies(paths)  # int64 [N]: of each picture the first one that shows the same

`folders` keeps copies on one side of every split by it, releases leave them out. Pictures are
compared as networks would see them: upright, central square, RGB.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from privynet_jax.images.decoding import Decoder, EncodedSplit, pool_of_decoders
from privynet_jax.images.pixels.colours import UnreadablePictureError
from privynet_jax.images.pixels.pictures import (
    StoredImage,
    decode_picture,
    open_picture,
    stored_bytes,
)
from privynet_jax.platform.progress import Bar

_LOG = logging.getLogger(__name__)
# Pictures are compared as thumbnails: means over blocks of what is decoded, which is large enough
# that what JPEG decodes at an eighth of its size is not shifted.
_DECODED, _SIDE, _COLOUR_SIDE = 64, 16, 4
_BLOCK = _DECODED // _SIDE
# JPEG's: brightness, and two of colour, which it stores coarsely.
_YCBCR = np.float32([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
# Root mean squares, of 255, up to which pictures are the same: constant, and per unit of detail,
# which is what saving again and resizing change; beyond some detail no more.
_BRIGHTNESS, _COLOUR, _MOST_DETAIL = (0.7, 0.4), (0.6, 0.25), 8.0
# So much may a block's brightness differ, constant and per unit of the detail there.
_BLOCK_BRIGHTNESS = (0.8, 0.27)
# Saving again changes a picture everywhere: from here on, of 255, the largest difference is no
# more than so many times what 95 % of the blocks stay below.
_NOTICED, _MOST_ALONE = 1.8, 3.0
# Pictures of fewer pixels a side change more where they are saved again.
_FINE = 128
# Of a unit of a block's detail, as it is kept.
_STEPS = 4
# What would leave out more than this is said to be much.
_MUCH = 0.1


class _Look(NamedTuple):
    """What is compared of pictures, of one or of all in a leading axis."""

    sums: np.ndarray  # uint16 [16, 16, 3], over blocks of the decoded picture
    detail: np.ndarray  # uint8 [16, 16], 4 x the deviation of brightness in blocks and around
    side: np.ndarray  # int32, of the stored picture


def groups_of_copies(
    pictures: Sequence[StoredImage], decode: Decoder = decode_picture
) -> np.ndarray:
    """Returns int64 [N]: of each picture, the number of the first one that shows the same.

    It is what `look_for_copies` finds.
    """
    return look_for_copies(pictures, decode)[0]


def look_for_copies(
    pictures: Sequence[StoredImage], decode: Decoder = decode_picture
) -> tuple[np.ndarray, list[bytes]]:
    """Returns the first picture that shows the same, int64 [N], and the sha256 of each one's bytes.

    Copies are files of equal bytes, and pictures that differ by no more than saving and resizing
    explains, as a whole and in every block of a grid of 16 x 16: a nodule, a moved object or the
    next slice of a volume makes another picture. Each picture is compared with those alone that are
    no copies, so a series of small changes is no group. In pictures of fewer than 128 pixels a
    side, more must change to be seen, and of those that were halved some are missed: the figures
    are in `tests/images/test_copies.py`.

    Pictures that cannot be decoded are only compared by their bytes.
    """
    digests, looks = [], []
    with pool_of_decoders() as pool:
        looked = pool.map(functools.partial(_look_at, decode), pictures)
        for digest, look in Bar(
            looked, "comparing pictures", len(pictures), unit="picture", delay=2
        ):
            digests.append(digest)
            looks.append(look)
    groups = firsts_of(digests)
    shown: dict[bytes, int] = {}
    for n in np.unique(groups):
        if looks[n] is not None:
            look = looks[n]
            key = look.sums.tobytes() + look.detail.tobytes() + look.side.tobytes()
            groups[n] = shown.setdefault(key, n)
    numbers = np.array(list(shown.values()), np.int64)
    if len(numbers):
        looks = _Look(*map(np.stack, zip(*(looks[n] for n in numbers), strict=True)))
        groups[numbers] = numbers[_firsts(looks)]
    groups = groups[groups[groups]]  # equal bytes -> equal thumbnails -> the same to the eye
    return groups, digests


def firsts_of(digests: Sequence[bytes]) -> np.ndarray:
    """Returns int64 [N]: of each digest, the place of the first equal one."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(each, n) for n, each in enumerate(digests)], np.int64)


def copies_of_tests(whole: EncodedSplit, is_test: np.ndarray) -> np.ndarray:
    """Returns which pictures of train, bool [N], are copies of test pictures, and says so.

    Copies whose labels contradict each other are named, too. The groups of `whole` are as of
    `groups_of_copies`; `is_test` is bool [N].
    """
    wrong = np.flatnonzero(whole.labels != whole.labels[whole.groups])
    if len(wrong):
        pairs = [f"{whole.images[n]} and {whole.images[whole.groups[n]]}" for n in wrong[:3]]
        told = "%d pictures are copies of pictures of another class, such as %s"
        _LOG.warning(told, len(wrong), ", ".join(pairs))
    is_copy = ~is_test & np.isin(whole.groups, whole.groups[is_test])
    copies, tested = np.flatnonzero(is_copy), np.flatnonzero(is_test)
    if len(copies):
        groups, firsts = np.unique(whole.groups[tested], return_index=True)
        originals = tested[firsts[np.searchsorted(groups, whole.groups[copies])]]
        named = name_pairs(*([str(whole.images[n]) for n in some] for some in (copies, originals)))
        much = much_of(len(copies), np.count_nonzero(~is_test), "train")
        told = "left out %d pictures of train that are copies of test pictures: %s%s"
        _LOG.warning(told, len(copies), named, much)
    return is_copy


def name_pairs(copies: Sequence[str], originals: Sequence[str]) -> str:
    """Returns "a of b, c of d": the first three copies, and what they are copies of."""
    pairs = [f"{copy} of {original}" for copy, original in zip(copies, originals, strict=True)]
    return ", ".join(pairs[:3]) + ", ..." * (len(pairs) > 3)


def much_of(count: int, whole: int, of: str) -> str:
    """Returns a clause for warnings where copies are more than a tenth, else nothing."""
    if count <= _MUCH * whole:
        return ""
    return f"; that is {count / whole:.0%} of {of}: look whether they are copies"


def _look_at(decode: Decoder, picture: StoredImage) -> tuple[bytes, _Look | None]:
    """The digest of a picture's bytes, and what is compared of it, where it can be decoded."""
    data = stored_bytes(picture)
    digest = hashlib.sha256(data).digest()
    try:
        with open_picture(data) as stored:
            side = np.int32(min(stored.size))
        pixels = decode(data, _DECODED).reshape(_SIDE, _BLOCK, _SIDE, _BLOCK, 3)
    except UnreadablePictureError:  # told by whoever decodes it to be used
        return digest, None
    detail = (np.float32(pixels) @ _YCBCR[:, 0]).std(axis=(1, 3))
    sums = pixels.sum(axis=(1, 3), dtype=np.uint16)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(detail, 1, "edge"), (3, 3))
    most_near = around.max((-1, -2))
    return digest, _Look(sums, np.uint8(np.minimum(_STEPS * most_near, 255)), side)


def _firsts(looks: _Look) -> np.ndarray:
    """int64 [N]: of each look, the first one that shows the same and is itself no copy."""
    converted = np.float32(looks.sums) / _BLOCK**2 @ _YCBCR
    brightness = converted[..., 0].reshape(len(converted), -1)
    colour = _coarse(converted[..., 1:])
    detail = np.minimum(_detail(converted[..., 0]), _MOST_DETAIL)
    coarser = np.maximum(1, _FINE / looks.side) ** 0.125
    of_brightness, of_colour = (
        (least + slope * detail) * coarser for least, slope in (_BRIGHTNESS, _COLOUR)
    )
    # Means over a whole picture differ by no more than their root mean square.
    means = brightness.mean(axis=1)
    by_mean = np.argsort(means, kind="stable")
    sorted_means, squares = means[by_mean], np.square(brightness).sum(axis=1)[by_mean]
    sorted_brightness, sorted_limits = brightness[by_mean], of_brightness[by_mean]
    firsts = np.full(len(means), -1)
    for number, pixels in enumerate(brightness):
        if firsts[number] >= 0:
            continue
        firsts[number] = number
        reach = of_brightness[number] + 1e-3
        low, high = np.searchsorted(sorted_means, [means[number] - reach, means[number] + reach])
        near = slice(low, high)
        # |a - b|^2 without a copy of all that is near.
        distances = squares[near] + pixels @ pixels - 2 * (sorted_brightness[near] @ pixels)
        limits = np.minimum(sorted_limits[near], of_brightness[number])
        others = by_mean[near][distances <= pixels.size * np.square(limits)]
        others = others[firsts[others] < 0]
        others = others[_same_in_blocks(looks, brightness, others, number)]
        rms = np.sqrt(np.square(colour[others] - colour[number]).mean(axis=1))
        same = rms <= np.minimum(of_colour[others], of_colour[number])
        firsts[others[same]] = number
    return firsts


def _same_in_blocks(
    looks: _Look, brightness: np.ndarray, others: np.ndarray, number: int
) -> np.ndarray:
    """Whether, bool [n], no block of others differs by more than saving again explains."""
    differences = np.abs(brightness[others] - brightness[number])
    least, slope = _BLOCK_BRIGHTNESS
    detail = np.minimum(looks.detail[others], looks.detail[number]) / np.float32(_STEPS)
    detail = detail.reshape(differences.shape)
    coarser = np.maximum(1, _FINE / np.minimum(looks.side[others], looks.side[number]))
    limits = (least + slope * detail) * np.square(coarser)[:, None]
    largest = differences.max(axis=1, initial=0)
    usual = np.quantile(differences, 0.95, axis=1, method="higher")
    alone = (largest > _NOTICED) & (largest > _MOST_ALONE * coarser * (0.1 + usual))
    return (differences <= limits).all(axis=1) & ~alone


def _coarse(x: np.ndarray) -> np.ndarray:
    """[N, 16, 16, C] -> [N, 4 * 4 * C], means."""
    block = _SIDE // _COLOUR_SIDE
    means = x.reshape(len(x), _COLOUR_SIDE, block, _COLOUR_SIDE, block, -1).mean(axis=(2, 4))
    return means.reshape(len(x), -1)


def _detail(x: np.ndarray) -> np.ndarray:
    """[N, 16, 16] -> [N]: how much pixels deviate from their neighbours; as white noise does."""
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    deviation = (4 * x[:, 1:-1, 1:-1] - around) / np.sqrt(20)
    return np.sqrt(np.square(deviation).mean(axis=(1, 2)))
