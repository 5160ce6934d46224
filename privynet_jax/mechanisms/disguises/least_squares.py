"""Least squares against exchanged and rotated blocks, from known pairs.

Of every place of the release and every block of the picture it asks how well rows of one follow
from rows of the other; what follows best belongs together, and the regression of the picture on
the release undoes the matrix. Without noise it is exact as soon as known rows span a block's.
"""

import dataclasses

import jax
import numpy as np
import scipy

from privynet_jax.attacks.base import PAIRS, Knowledge, Pairs
from privynet_jax.mechanisms.disguises.blocks import from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.undoing import Undone, pictures

# Of the mean diagonal of a Gram matrix: above rounding, below what noise there may be.
_RIDGE = 1e-9


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """Regresses rows of a picture's blocks on rows of the release's."""

    block: int
    name: str = "least squares"
    knowledge: str = PAIRS

    def learnt(self, pairs: Pairs, known: Knowledge, key: jax.Array) -> Undone:
        """Fits on half of the pairs, and leaves the others to learn from: they are as unknown."""
        images, released = pictures(pairs)
        half = len(images) // 2 // pairs.copies * pairs.copies
        x, y = _rows(images[:half], self.block), _rows(released[:half], self.block)
        order = _belonging(x, y)
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        solved = _regressed(y - y_mean, x[:, order] - x_mean[order])

        def undo(released: np.ndarray) -> np.ndarray:
            rows = to_blocks(np.float64(released), self.block)
            centred = rows - y_mean[:, :, None]
            found = np.einsum("njcrk,jckl->njcrl", centred, solved) + x_mean[order][:, :, None]
            back = np.empty_like(found)
            back[:, order] = found
            return np.float32(from_blocks(back, released.shape[2]))

        rest = undo(released[half:])
        return Undone(undo, Pairs(rest, pairs.images[half:], pairs.copies), {})


def _rows(images: np.ndarray, side: int) -> np.ndarray:
    """All rows of blocks, float64 [N * side, B, 3, side]."""
    blocks = to_blocks(np.float64(images), side)
    return np.moveaxis(blocks, 3, 1).reshape(-1, *blocks.shape[1:3], side)


def _belonging(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each place of the release, int [B], which block of the picture explains it best."""
    count, colours, side = x.shape[1:]
    explained = np.zeros((count, count))
    for colour in range(colours):
        own, theirs = (z[:, :, colour] - z[:, :, colour].mean(axis=0) for z in (x, y))
        cross = (theirs.reshape(len(y), -1).T @ own.reshape(len(x), -1)).reshape(
            count, side, count, side
        )
        for block in range(count):
            gram = own[:, block].T @ own[:, block]
            gram[np.diag_indices(side)] += _RIDGE * np.trace(gram) / side + 1e-12
            of_block = cross[:, :, block]  # [places, side, side]
            explained[:, block] += np.einsum(
                "pak,kl,pal->p", of_block, np.linalg.inv(gram), of_block
            )
    return scipy.optimize.linear_sum_assignment(-explained)[1]


def _regressed(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What takes centred rows of the release to the picture's, float64 [B, 3, side, side]."""
    gram = np.einsum("njck,njcl->jckl", y, y)
    side = gram.shape[-1]
    trace = np.trace(gram, axis1=-2, axis2=-1)[..., None, None]
    gram = gram + (_RIDGE * trace / side + 1e-12) * np.eye(side)
    return np.linalg.solve(gram, np.einsum("njck,njcl->jckl", y, x))
