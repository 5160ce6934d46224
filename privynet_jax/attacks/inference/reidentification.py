"""Re-identification: which of N pictures is behind a representation?

A reconstruction that no person would recognise may still be nearest to the right picture of a
gallery. Every query is compared with the true picture and N - 1 others drawn at random, in one of
three ways: its reconstruction with pictures (`pixels`); its representation with theirs, by somebody
who has the local NN (`grids`); or by somebody who has the whole network but knows neither which
channels are released nor in which order (`similarities`).

    found = reidentify(pixels(reconstructions), pixels(images), np.arange(500), 100, key)
    found.top1.mean(), found.ranks.mean()  # chance: 0.01, 50.5

And which source, such as a photograph, is the picture from, to whoever has other pictures of it?

    found = same_source(pixels(reconstructions), pixels(images), np.arange(500), sources)
    found.right.mean(), found.chance.mean()
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.platform.devices import at_once
from privynet_jax.training.batches import stream_of

# Positions per side that descriptors keep: of representations, and of large images.
_SIDE, _PIXELS = 8, 32
# Similarities that differ by less are equal: descriptors are float32 and were summed in some order.
_TOLERANCE = 1e-6
_QUERIES_AT_ONCE = 256
# Of float64 descriptors, and of float32 representations, that there are at once.
_BYTES_AT_ONCE = 2**27


class Found(NamedTuple):
    """What the search found, per query.

    Attributes:
        top1: float64 [Q], the chance that the best candidate, ties broken at random, is the truth.
        ranks: float64 [Q], of the truth among the candidates, from 1; the middle rank of ties.
    """

    top1: np.ndarray
    ranks: np.ndarray


class SameSource(NamedTuple):
    """Whether a query's best match among the other pictures is of its source.

    Attributes:
        rows: int [q], the queries whose source has another picture; of no other it could be told.
        right: float64 [q], the chance that the best match, ties broken at random, is of the source.
        chance: float64 [q], the share of the other pictures that are.
    """

    rows: np.ndarray
    right: np.ndarray
    chance: np.ndarray


def reidentify(
    queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray, candidates: int, key: jax.Array
) -> Found:
    """Ranks the true picture of each query among candidates, by cosine of centred descriptors.

    The gallery's mean is taken away from all descriptors first: what all pictures have in common
    tells none from another. Computed in float64, block by block: large galleries need no copy.

    Queries are descriptors float or uint8 [Q, d], the gallery [M, d] on the same scale; truth is
    int [Q], each query's picture in it. Each query is compared with so many candidates, at most M;
    the key draws the others.
    """
    if not 1 < candidates <= len(gallery):
        raise ValueError(f"Expected 2 to {len(gallery)} candidates, got {candidates}")
    stream = stream_of(key)
    top1, ranks = [], []
    for block, likeness in _likenesses(queries, gallery):
        mine = truth[block]
        rows = np.arange(len(mine))
        own = likeness[rows, mine][:, None].copy()
        # The candidates are those of smallest random numbers; the truth's is smaller than any.
        draw = stream.random(likeness.shape)
        draw[rows, mine] = -1
        chosen = draw <= np.partition(draw, candidates - 1, axis=1)[:, [candidates - 1]]
        closer = (chosen & (likeness > own + _TOLERANCE)).sum(axis=1)
        ties = (chosen & (np.abs(likeness - own) <= _TOLERANCE)).sum(axis=1) - 1
        top1.append(np.where(closer == 0, 1 / (ties + 1), 0))
        ranks.append(1 + closer + ties / 2)
    return Found(np.concatenate(top1), np.concatenate(ranks))


def same_source(
    queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray, sources: np.ndarray
) -> SameSource:
    """Looks up the source of each query's most alike picture, the true one left out.

    Queries, gallery and truth are `reidentify`'s, all of the gallery are candidates; sources are
    the gallery's, int [M].
    """
    right, chance = [np.zeros(0)], [np.zeros(0)]
    for block, likeness in _likenesses(queries, gallery):
        mine = truth[block]
        likeness[np.arange(len(mine)), mine] = -np.inf
        is_alike = sources == sources[mine][:, None]
        is_best = likeness >= likeness.max(axis=1, keepdims=True) - _TOLERANCE
        right.append((is_best & is_alike).sum(axis=1) / is_best.sum(axis=1))
        chance.append((is_alike.sum(axis=1) - 1) / (len(gallery) - 1))
    right, chance = np.concatenate(right), np.concatenate(chance)
    rows = np.flatnonzero(chance > 0)
    return SameSource(rows, right[rows], chance[rows])


def identified(reconstructions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns float32 [N]: whether a reconstruction is more like its own image than like another.

    Both are uint8 [N, H, W, 3], and are compared by means over fields where they have 64 pixels a
    side or more. Of n images that are most alike each counts 1 / n. A single image, which there is
    nothing to tell from, is identified.
    """
    if len(images) < 2:
        return np.ones(len(images), np.float32)
    truth, key = np.arange(len(images)), jax.random.key(0)  # draws nothing: all are candidates
    ours, theirs = (pixels(pooled(x, _PIXELS)) for x in (reconstructions, images))
    return np.float32(reidentify(ours, theirs, truth, len(images), key).top1)


def pixels(images: np.ndarray) -> np.ndarray:
    """Descriptors of images or reconstructions, [N, H, W, 3] of one scale: their pixels."""
    return images.reshape(len(images), -1)


def grids(representations: np.ndarray) -> np.ndarray:
    """Descriptors of representations [N, h, w, D] whose channels are known: means over fields."""
    return pooled(representations).reshape(len(representations), -1)


def similarities(representations: np.ndarray) -> np.ndarray:
    """Descriptors of representations [N, h, w, any], the same for any order of the channels.

    How alike each pair of positions is, over all channels there are: the Gram matrix of positions,
    which a random choice of channels estimates without bias. Its alignment is what centred kernel
    alignment compares networks by (Kornblith et al. 2019, arXiv:1905.00414).
    """
    x = pooled(representations)
    x = x.reshape(len(x), -1, x.shape[-1])
    x = x - x.mean(axis=1, keepdims=True)
    gram = np.einsum("npd,nqd->npq", x, x, optimize=True) / x.shape[-1]
    # Without the diagonal's size, bright pictures are near everything.
    upper = np.triu_indices(gram.shape[1])
    chosen = gram[:, upper[0], upper[1]]
    return np.float32(chosen / _lengths(chosen, np.zeros(1, np.float32)))


def pooled(representations: Any, least: int = _SIDE) -> np.ndarray:
    """Returns means over fields of equal size, float32 [N, rows, columns, D].

    Rows and columns are fewer than twice the least, and at least so many where there are.
    Representations [N, h, w, D], an array or what reads rows, are taken block by block. What is
    pooled already stays as it is.
    """
    _, height, width, depth = representations.shape
    fields = tuple(max(1, side // least) for side in (height, width))
    rows, columns = (side // f for side, f in zip((height, width), fields, strict=True))
    found = np.empty((len(representations), rows, columns, depth), np.float32)
    for block in _blocks(representations, len(representations)):
        x = np.float32(representations[block])[:, : rows * fields[0], : columns * fields[1]]
        folded = x.reshape(len(x), rows, fields[0], columns, fields[1], depth)
        found[block] = folded.mean(axis=(2, 4), dtype=np.float32)
    return found


def _likenesses(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields blocks of queries with the cosines of their centred descriptors, float64 [q, M]."""
    mean = gallery.mean(axis=0, dtype=np.float64)
    of_gallery, of_queries = (_lengths(x, mean) for x in (gallery, queries))
    for block in _blocks(queries, _QUERIES_AT_ONCE):
        ours = (queries[block] - mean) / of_queries[block]
        likeness = np.empty((len(ours), len(gallery)))
        for those in _blocks(gallery, len(gallery)):
            likeness[:, those] = ours @ ((gallery[those] - mean) / of_gallery[those]).T
        yield block, likeness


def _blocks(stored: Any, most: int) -> Iterator[slice]:
    """Slices of rows, at most so many, that are few enough in float64."""
    size = at_once(max(1, most), 8 * math.prod(stored.shape[1:]), _BYTES_AT_ONCE)
    return (slice(at, min(at + size, len(stored))) for at in range(0, len(stored), size))


def _lengths(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[N, 1] of descriptors without their mean; infinite where that is no direction."""
    norms = [
        np.linalg.norm(x[block] - mean, axis=-1, keepdims=True) for block in _blocks(x, len(x))
    ]
    lengths = np.concatenate([np.zeros((0, 1)), *norms])
    # What is left of equal vectors after their mean is rounding, not a direction.
    return np.where(lengths > 1e-6 * max(1.0, lengths.max(initial=0)), lengths, np.inf)
