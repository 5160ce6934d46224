"""Second moments against exchanged and rotated blocks: an attack that needs no pairs.

Matrices turn rows of blocks, and no rotation changes how strongly two rows vary together. So a
release has the graph of such strengths that pictures have, in another order: a quadratic
assignment, in which a block's last row and the first of the block below tell up from down, and
nothing tells left from right. Then the products of a place have the eigenvectors of its block's,
turned and of unknown sign; signs follow from products between places (synchronisation), and all
rotations are polished together (orthogonal Procrustes). Of the two orders that mirror each other,
that counts which explains all products better.
"""

import dataclasses
import functools

import jax
import numpy as np
import scipy

from privynet_jax.attacks.base import NETWORK, Knowledge, Pairs
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.blocks import from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.undoing import Undone, in_batches
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT, Mechanism

_TRIES, _SWEEPS = 20, 30
# Own pictures that moments are taken of.
_MOST = 4096
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Aligns the moments of a release with those of the attacker's own pictures."""

    mechanism: Mechanism  # with `block`, and `noisy`, which the attacker does to its own pictures
    name: str = "moments"
    knowledge: str = NETWORK

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Takes the released pictures' moments and the own ones'; needs no pair."""
        images, (noise, matching) = as_float(pairs.images), jax.random.split(key)
        own = np.array(jax.vmap(self.mechanism.noisy)(jax.random.split(noise, len(images)), images))
        own /= PICTURE_UNIT
        side, some = self.mechanism.block, (own[:_MOST], np.float32(known.observed[:]))
        found = matched_places(*(_graph(each, side) for each in some), matching)
        mirrored = np.arange(len(found)).reshape(-1, own.shape[2] // side)[:, ::-1].ravel()[found]
        mine, theirs = (_products(each, side) for each in some)
        tried = [(*_aligned(mine[o][:, o], theirs), o) for o in (found, mirrored)]
        turns, _, order = min(tried, key=lambda one: one[1])
        # Products are the same of all that is turned by the opposite.
        own_mean, mean = (to_blocks(x, side).mean(axis=(0, 3), dtype=np.float64) for x in some)
        turns *= np.sign(np.einsum("pck,pckl,pcl->", own_mean[order], turns, mean)) or 1.0

        def undo_some(released: np.ndarray) -> np.ndarray:
            blocks = to_blocks(np.float64(released), side)
            turned = np.einsum("njcrk,jclk->njcrl", blocks, turns)
            back = np.empty_like(turned)
            back[:, order] = turned
            return np.float32(from_blocks(back, released.shape[2]))

        undo = functools.partial(in_batches, undo_some)
        return Undone(undo, Pairs(own, pairs.images, pairs.copies), {})


def _graph(images: np.ndarray, side: int) -> np.ndarray:
    """How strongly blocks vary together, float64 [B, B], and in which order they lie."""
    blocks = to_blocks(images - images.mean(axis=0), side)
    count, colours = blocks.shape[1:3]
    rows = np.moveaxis(blocks, 2, 3).reshape(len(images), count, -1)  # row by row of a block
    flat = rows.reshape(len(images), -1)
    strengths = np.empty((count, side, count, side))
    for block in range(count):  # not all at once: that is the square of all values
        found = rows[:, block].T @ flat / len(images)
        found = found.reshape(side, colours, side, count, side, colours, side)
        strengths[block] = np.sqrt(np.square(found).sum(axis=(2, 6))).sum(axis=(1, 4))
    near = strengths.mean(axis=(1, 3))
    below = strengths[:, -1, :, 0] - strengths[:, 0, :, -1]
    scaled = ((x - x.mean()) / max(x.std(), _TINY) for x in (near, below))
    return sum(scaled)


def _products(images: np.ndarray, side: int) -> np.ndarray:
    """Mean products of rows of all blocks and colours, [B, B, 3, 3, side, side], not centred."""
    blocks = to_blocks(images, side)
    count = blocks.shape[1]
    rows = np.moveaxis(blocks, 3, 1).reshape(len(images) * side, -1)
    products = np.float64(rows.T @ rows / len(rows)).reshape(count, 3, side, count, 3, side)
    return products.transpose(0, 3, 1, 4, 2, 5)


def matched_places(mine: np.ndarray, theirs: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns for each place of a release, int [B], which of the own blocks it holds.

    Of graphs [B, B] between them: a quadratic assignment (Vogelstein et al. 2015,
    doi:10.1371/journal.pone.0121002), from several starts.
    """
    if len(mine) == 1:
        return np.zeros(1, int)
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    options = {"maximize": True, "P0": "randomized", "maxiter": 100, "tol": 1e-3, "rng": random}
    tries = [
        scipy.optimize.quadratic_assignment(theirs, mine, method="faq", options=options)
        for _ in range(_TRIES)
    ]
    return max(tries, key=lambda found: found.fun).col_ind


def _aligned(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, float]:
    """Orthogonal matrices [B, 3, side, side] by which a release's places were turned.

    And the mean squared error that they leave. Moments are [B, B, 3, 3, side, side], in one order:
    theirs = turn.T @ mine @ turn'.
    """
    count, side = mine.shape[0], mine.shape[-1]
    # Every colour of every block is a place of its own.
    m, t = (
        x.transpose(0, 2, 1, 3, 4, 5).reshape(3 * count, 3 * count, side, side)
        for x in (mine, theirs)
    )
    places = np.arange(len(m))
    bases = [np.linalg.eigh(x[places, places])[1] for x in (m, t)]
    expected, seen = (
        np.einsum("pka,pqkl,qlb->paqb", basis, x, basis)
        for basis, x in zip(bases, (m, t), strict=True)
    )
    agreement = (expected * seen).reshape(len(m) * side, -1)
    signs = _synchronised(agreement).reshape(len(m), 1, side)
    turns = np.einsum("pka,pla->pkl", bases[0] * signs, bases[1])
    turns = _polished(m, t, turns)
    left = np.einsum("pkl,pqkm,qmn->pqln", turns, m, turns, optimize=True) - t
    return turns.reshape(count, 3, side, side), float(np.mean(np.square(left)))


def _synchronised(agreement: np.ndarray) -> np.ndarray:
    """Signs that make the sum of agreement * sign * sign' large: an eigenvector's, then flips."""
    np.fill_diagonal(agreement, 0.0)
    _, vectors = scipy.linalg.eigh(agreement, subset_by_index=[len(agreement) - 1] * 2)
    signs = np.where(vectors[:, 0] < 0, -1.0, 1.0)
    for _ in range(_SWEEPS):
        wrong = np.flatnonzero(signs * (agreement @ signs) < 0)
        if not len(wrong):
            break
        for place in wrong:
            if signs[place] * (agreement[place] @ signs) < 0:
                signs[place] *= -1
    return signs


def _polished(mine: np.ndarray, theirs: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The rotations that best explain all products at once, each in its turn."""
    turns = turns.copy()
    for _ in range(_SWEEPS):
        before = turns.copy()
        for place in range(len(turns)):
            turned = np.einsum("qkl,qlm->qkm", mine[place], turns)
            target = np.einsum("qkm,qlm->kl", turned, theirs[place])
            left, _, right = np.linalg.svd(target)
            turns[place] = left @ right
        if np.abs(turns - before).max() < 1e-6:
            break
    return turns
