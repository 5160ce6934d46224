"""Codebooks against encrypted blocks: what a block was once, it is always.

With pairs, every block whose ciphertext was met is known. Without, how often blocks occur tells the
commonest ones, such as black, as it tells letters of a simple substitution. What stays unknown is
the mean of the attacker's pictures there.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import scipy

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.mechanisms.disguises.alignment import matched_places
from privynet_jax.mechanisms.disguises.blocks import from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.undoing import Undone
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT

SIDE = 4  # of a block: 16 bytes of one colour
# Of counts of two blocks that frequencies tell apart: standard deviations, and least occurrences.
_APART, _LEAST = 3.0, 8

# Ciphertext, of a place or, where one key serves all, of any -> levels uint8 [16].
_Book = Mapping[tuple[int, bytes], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Looks blocks up among the pairs."""

    each_place: bool  # has a key of its own
    name: str = "codebook"
    knowledge: str = PAIRS

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Fills the book from half of the pairs: to the others it is what it is to any picture."""
        half = len(pairs.images) // 2 // pairs.copies * pairs.copies
        released = pairs.representations
        plain, cipher = _pieces(pairs.images[:half]), _levels(np.float32(released[:half]))
        order = _belonging(plain, cipher)
        book = {
            (place if self.each_place else -1, piece.tobytes()): block
            for place, source in enumerate(order)
            for of_image, of_plain in zip(cipher[:, place], plain[:, source], strict=True)
            for piece, block in zip(of_image, of_plain, strict=True)
        }
        reader = _Reader(book, self.each_place, order, plain.mean(axis=0))
        rest = reader(np.float32(released[half:]))
        found = {"known_blocks": float(rest[..., -1].mean())}
        return Undone(reader, Pairs(rest, pairs.images[half:], pairs.copies), found)


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """Matches the commonest blocks of a release with those of the attacker's own pictures."""

    each_place: bool
    name: str = "frequencies"
    knowledge: str = NETWORK

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Takes own pictures and the release alone."""
        plain, cipher = _pieces(pairs.images), _levels(np.float32(known.observed[:]))
        order = matched_places(_repeats(plain), _repeats(cipher), key)
        book: dict[tuple[int, bytes], np.ndarray] = {}
        for place in range(len(order)) if self.each_place else [-1]:
            mine, theirs = (
                (plain, cipher) if place < 0 else (plain[:, order[place]], cipher[:, place])
            )
            book |= {(place, c.tobytes()): p for p, c in _commonest(mine, theirs)}
        reader = _Reader(book, self.each_place, order, plain.mean(axis=0))
        own = reader.of_own(plain, pairs.images.shape[2])
        told = {"known_blocks": float(own[..., -1].mean())}
        return Undone(reader, Pairs(own, pairs.images, pairs.copies), told)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Reads releases [N, H, W, 3] by a book: pictures, and where they are known, [N, H, W, 4]."""

    book: _Book
    each_place: bool
    order: np.ndarray
    usual: np.ndarray  # [B, 3, 16], what stands for a block that nobody knows

    def __call__(self, released: np.ndarray) -> np.ndarray:
        cipher = _levels(released)
        blocks = np.tile(np.float32(self.usual), (len(cipher), 1, 1, 1))
        is_known = np.zeros(cipher.shape[:3], bool)
        for place, source in enumerate(self.order):
            scope = place if self.each_place else -1
            for image, colour in np.ndindex(len(cipher), cipher.shape[2]):
                found = self.book.get((scope, cipher[image, place, colour].tobytes()))
                if found is not None:
                    blocks[image, source, colour] = found
                    is_known[image, source, colour] = True
        return _joined(blocks, is_known, released.shape[2])

    def of_own(self, plain: np.ndarray, width: int) -> np.ndarray:
        """What would be left of own pictures' pieces [N, B, 3, 16], had they been released."""
        places = np.argsort(self.order)
        known = {(scope, block.tobytes()) for (scope, _), block in self.book.items()}
        blocks = np.tile(np.float32(self.usual), (len(plain), 1, 1, 1))
        is_known = np.zeros(plain.shape[:3], bool)
        for image, source, colour in np.ndindex(plain.shape[:3]):
            scope = int(places[source]) if self.each_place else -1
            is_known[image, source, colour] = (
                scope,
                plain[image, source, colour].tobytes(),
            ) in known
        blocks[is_known] = plain[is_known]
        return _joined(blocks, is_known, width)


def _joined(blocks: np.ndarray, is_known: np.ndarray, width: int) -> np.ndarray:
    shape = (*blocks.shape[:3], SIDE, SIDE)
    pictures = from_blocks(blocks.reshape(shape), width) / (255 * PICTURE_UNIT)
    mask = from_blocks(np.broadcast_to(is_known[..., None, None], shape), width)
    return np.float32(np.concatenate([pictures, mask.mean(axis=-1, keepdims=True)], axis=-1))


def _pieces(images: np.ndarray) -> np.ndarray:
    """uint8 [N, B, 3, 16] of images uint8 [N, H, W, 3]."""
    blocks = to_blocks(images, SIDE)
    return np.ascontiguousarray(blocks).reshape(*blocks.shape[:3], -1)


def _levels(released: np.ndarray) -> np.ndarray:
    return _pieces(np.uint8(np.round(255 * PICTURE_UNIT * np.float64(released))))


def _belonging(plain: np.ndarray, cipher: np.ndarray) -> np.ndarray:
    """For each place of the release, int [B], the block that is equal when its ciphertext is."""
    agreed = np.zeros((cipher.shape[1], plain.shape[1]))
    for colour in range(plain.shape[2]):
        mine, theirs = (_numbered(own[:, :, colour]) for own in (plain, cipher))
        equal = [[_equal_pairs(column) for column in own.T] for own in (mine, theirs)]
        for place, source in np.ndindex(agreed.shape):
            either = (equal[1][place] + equal[0][source]) / 2
            if either:
                both = theirs[:, place] * (mine.max() + 1) + mine[:, source]
                agreed[place, source] += _equal_pairs(both) - either
    return scipy.optimize.linear_sum_assignment(-agreed)[1]


def _numbered(pieces: np.ndarray) -> np.ndarray:
    """Numbers int [N, B] by which pieces [N, B, 16] are equal."""
    names = np.ascontiguousarray(pieces).view("V16")[..., 0]
    return np.unique(names, return_inverse=True)[1].reshape(names.shape)


def _equal_pairs(numbers: np.ndarray) -> float:
    counts = np.unique(numbers, return_counts=True)[1]
    return float((counts * (counts - 1) // 2).sum())


def _repeats(pieces: np.ndarray) -> np.ndarray:
    """How often places hold their commonest block, and hold theirs together, float64 [B, B]."""
    numbers = [_numbered(pieces[:, :, colour]) for colour in range(pieces.shape[2])]
    commonest = [
        np.stack([column == np.bincount(column).argmax() for column in own.T], axis=1)
        for own in numbers
    ]
    shares = np.float64(np.concatenate(commonest))
    return shares.T @ shares / len(shares)


def _commonest(plain: np.ndarray, cipher: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks with what they are encrypted as, as far as their frequencies tell them apart."""
    found, ranked = [], []
    for own in (plain, cipher):
        names, counts = np.unique(own.reshape(-1, own.shape[-1]), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        ranked.append((names[order], np.append(counts[order], 0)))
    for rank in range(min(len(names) for names, _ in ranked)):
        for _, counts in ranked:
            here, after = counts[rank], counts[rank + 1]
            if here < _LEAST or here - after < _APART * np.sqrt(here + after):
                return found
        found.append(tuple(names[rank] for names, _ in ranked))
    return found
