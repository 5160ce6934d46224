"""Codebooks against encrypted blocks: what a block was once, it is always.

With pairs, every block whose ciphertext was met is known. Without, how often blocks occur tells the
commonest ones, such as black, as it tells letters of a simple substitution. What stays unknown is
the mean of the attacker's pictures there.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.mechanisms.disguises.alignment import matched_places
from privynet_jax.mechanisms.disguises.blocks import from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.undoing import Undone, in_batches
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT

SIDE = 4  # of a block: 16 bytes of one colour
# Of counts of two blocks that frequencies tell apart: standard deviations, and least occurrences.
_APART, _LEAST = 3.0, 8


class _Book(NamedTuple):
    """Ciphertexts uint8 [M, 16], each once, with what they stand for."""

    ciphers: np.ndarray
    plains: np.ndarray

    def places(self, asked: np.ndarray, of: str = "ciphers") -> np.ndarray:
        """Returns where each of uint8 [Q, 16] stands in it, int [Q], -1 where nowhere."""
        known = getattr(self, of)
        numbers = _numbered(np.concatenate([known, asked]))
        found = np.full(numbers.max(initial=-1) + 1, -1)
        found[numbers[: len(known)]] = np.arange(len(known))
        return found[numbers[len(known) :]]


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Looks blocks up among the pairs."""

    each_place: bool  # has a key of its own
    name: str = "codebook"
    knowledge: str = PAIRS

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Fills the book from half of the pairs: to the others it is what it is to any picture."""
        half = len(pairs.images) // pairs.copies // 2 * pairs.copies
        released = pairs.representations
        plain, cipher = _pieces(pairs.images[:half]), _levels(np.float32(released[:half]))
        order, is_sure = _belonging(plain, cipher)
        places = [[place] for place in np.flatnonzero(is_sure)]
        if not self.each_place:
            places = [np.flatnonzero(is_sure)]
        books = [_voted(cipher[:, own], plain[:, order[own]]) for own in places]
        reader = _Reader(places, books, order, plain.mean(axis=0))
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
        everywhere = np.arange(len(order))
        places = [[place] for place in everywhere] if self.each_place else [everywhere]
        books = [_commonest(cipher[:, own], plain[:, order[own]]) for own in places]
        reader = _Reader(places, books, order, plain.mean(axis=0))
        own = reader.of_own(plain, pairs.images.shape[2])
        told = {"known_blocks": float(own[..., -1].mean())}
        return Undone(reader, Pairs(own, pairs.images, pairs.copies), told)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Reads releases [N, H, W, 3] by books: pictures, and where they are known, [N, H, W, 4]."""

    places: Sequence[Sequence[int]]  # of the release, that have a book in common
    books: Sequence[_Book]
    order: np.ndarray
    usual: np.ndarray  # [B, 3, 16], what stands for a block that nobody knows

    def __call__(self, released: np.ndarray) -> np.ndarray:
        return in_batches(lambda x: self._read(_levels(x), x.shape[2]), released)

    def of_own(self, plain: np.ndarray, width: int) -> np.ndarray:
        """What would be left of own pictures' pieces [N, B, 3, 16], had they been released."""
        return in_batches(lambda x: self._read(x[:, self.order], width, "plains"), plain)

    def _read(self, pieces: np.ndarray, width: int, of: str = "ciphers") -> np.ndarray:
        """Pieces uint8 [N, B, 3, 16] lie in the places of the release."""
        blocks = np.tile(np.float32(self.usual), (len(pieces), 1, 1, 1))
        is_known = np.zeros(pieces.shape[:3], bool)
        for own, book in zip(self.places, self.books, strict=True):
            asked = pieces[:, own]
            found = book.places(asked.reshape(-1, asked.shape[-1]), of).reshape(asked.shape[:3])
            sources = self.order[own]
            is_known[:, sources] = found >= 0
            met = book.plains[found] if len(book.plains) else asked
            blocks[:, sources] = np.where((found >= 0)[..., None], met, blocks[:, sources])
        return _joined(blocks, is_known, width)


def _voted(cipher: np.ndarray, plain: np.ndarray) -> _Book:
    """What most of the pairs say of each ciphertext; both uint8 [N, places, 3, 16]."""
    cipher, plain = (np.ascontiguousarray(x).reshape(-1, x.shape[-1]) for x in (cipher, plain))
    names, others = _numbered(cipher), _numbered(plain)
    pairs, firsts, votes = np.unique(
        np.stack([names, others], axis=1), axis=0, return_index=True, return_counts=True
    )
    best = np.lexsort((-votes, pairs[:, 0]))
    chosen = firsts[best[np.unique(pairs[best, 0], return_index=True)[1]]]
    return _Book(cipher[chosen], plain[chosen])


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


def _belonging(plain: np.ndarray, cipher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each place of the release, int [B], the block that is equal when its ciphertext is.

    And whether anything tells, bool [B]: what never repeats could be any block.
    """
    agreed = np.zeros((cipher.shape[1], plain.shape[1]))
    for colour in range(plain.shape[2]):
        mine, theirs = (_numbered(own[:, :, colour]) for own in (plain, cipher))
        equal = [[_equal_pairs(column) for column in own.T] for own in (mine, theirs)]
        for place, source in np.ndindex(agreed.shape):
            either = (equal[1][place] + equal[0][source]) / 2
            if either:
                both = theirs[:, place] * (mine.max() + 1) + mine[:, source]
                agreed[place, source] += _equal_pairs(both) - either
    order = scipy.optimize.linear_sum_assignment(-agreed)[1]
    best = agreed[np.arange(len(order)), order]
    rest = np.where(np.arange(agreed.shape[1]) == order[:, None], -np.inf, agreed)
    return order, best > rest.max(axis=1, initial=-np.inf)


def _numbered(pieces: np.ndarray) -> np.ndarray:
    """Numbers int [...] by which pieces uint8 [..., 16] are equal."""
    names = np.ascontiguousarray(pieces).view(f"V{pieces.shape[-1]}")[..., 0]
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


def _commonest(cipher: np.ndarray, plain: np.ndarray) -> _Book:
    """Blocks with what they are encrypted as, as far as their frequencies tell them apart."""
    ranked, told = [], 0
    for own in (cipher, plain):
        names, counts = np.unique(own.reshape(-1, own.shape[-1]), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        ranked.append((names[order], np.append(counts[order], 0)))
    for rank in range(min(len(names) for names, _ in ranked)):
        pairs = [(counts[rank], counts[rank + 1]) for _, counts in ranked]
        if not all(a >= _LEAST and a - b >= _APART * np.sqrt(a + b) for a, b in pairs):
            break
        told += 1
    return _Book(*(names[:told] for names, _ in ranked))
