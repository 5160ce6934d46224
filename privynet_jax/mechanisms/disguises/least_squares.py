"""Least squares against exchanged and rotated blocks, from known pairs.

Of every place of the release and every block of the picture it asks how well rows of one follow
from rows of the other; what follows best belongs together, and the regression of the picture on
the release undoes the matrix. Without noise it is exact as soon as known rows span a block's.
"""

import dataclasses
import functools

import jax
import numpy as np
import scipy

from privynet_jax.attacks.base import PAIRS, Knowledge, Pairs
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.blocks import from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.undoing import Undone, in_batches
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT

# Of the mean diagonal of a Gram matrix: above rounding, below what noise there may be.
_RIDGE = 1e-9
# Pairs that are more than enough for matrices of a few pixels.
_MOST = 2048


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """Regresses rows of a picture's blocks on rows of the release's."""

    block: int
    name: str = "least squares"
    knowledge: str = PAIRS

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Fits on half of the pairs, and leaves the others to learn from: they are as unknown."""
        half = len(pairs.images) // pairs.copies // 2 * pairs.copies
        used = np.arange(min(half, _MOST))
        x = _rows(as_float(pairs.images[used]) / PICTURE_UNIT, self.block)
        y = _rows(np.float32(pairs.representations[used]), self.block)
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        x, y = x - x_mean, y - y_mean
        order = _belonging(x, y)
        solved = _regressed(y, x[:, order])

        def undo_some(released: np.ndarray) -> np.ndarray:
            rows = to_blocks(np.float64(released), self.block)
            centred = rows - y_mean[:, :, None]
            found = np.einsum("njcrk,jckl->njcrl", centred, solved) + x_mean[order][:, :, None]
            back = np.empty_like(found)
            back[:, order] = found
            return np.float32(from_blocks(back, released.shape[2]))

        undo = functools.partial(in_batches, undo_some)
        rest = undo(np.float32(pairs.representations[half:]))
        return Undone(undo, Pairs(rest, pairs.images[half:], pairs.copies), {})


def _rows(images: np.ndarray, side: int) -> np.ndarray:
    """All rows of blocks, float64 [N * side, B, 3, side]."""
    blocks = to_blocks(np.float64(images), side)
    return np.moveaxis(blocks, 3, 1).reshape(-1, *blocks.shape[1:3], side)


def _belonging(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each place of the release, int [B], which block of the picture explains it best.

    Of centred rows, float64 [rows, B, 3, side].
    """
    count, colours, side = x.shape[1:]
    explained = np.zeros((count, count))
    for colour in range(colours):
        own, theirs = (z[:, :, colour].reshape(len(z), -1) for z in (x, y))
        cross = (theirs.T @ own).reshape(count, side, count, side)
        for block in range(count):
            rows = x[:, block, colour]
            gram = rows.T @ rows
            gram[np.diag_indices(side)] += _RIDGE * np.trace(gram) / side + 1e-12
            of_block = cross[:, :, block]  # [places, side, side]
            turned = of_block @ np.linalg.inv(gram)
            explained[:, block] += (turned * of_block).sum(axis=(1, 2))
    return scipy.optimize.linear_sum_assignment(-explained)[1]


def _regressed(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What takes centred rows of the release to the picture's, float64 [B, 3, side, side]."""
    gram = np.einsum("njck,njcl->jckl", y, y)
    side = gram.shape[-1]
    trace = np.trace(gram, axis1=-2, axis2=-1)[..., None, None]
    gram = gram + (_RIDGE * trace / side + 1e-12) * np.eye(side)
    return np.linalg.solve(gram, np.einsum("njck,njcl->jckl", y, x))
