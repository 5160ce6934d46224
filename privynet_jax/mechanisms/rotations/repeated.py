"""What several releases of one picture have in common, each turned into other pictures' features.

Of one release an attacker knows a plane (of three parts a space) in which the hidden part lies.
That of another release, with another turn and other pictures, has one line in common with it: the
hidden part itself. Two are enough, and no angle is searched.

    common_part(several, parts=2)  # float32 [R, N, h, w, 2 * D] -> [N, h, w, 2 * D]
"""

import numpy as np

from privynet_jax.mechanisms.rotations.turns import unpacked


def common_part(several: np.ndarray, parts: int) -> np.ndarray:
    """Returns the hidden part, and zeros in place of the others, float32 [N, h, w, P * D].

    Its sign is not told by planes: the sum of its cubes is made positive.
    """
    count, images, *place, depth = several.shape
    z = np.asarray(unpacked(np.float64(several), parts)).reshape(count, images, parts, -1)
    z = np.moveaxis(z, 0, 1)  # [N, R, P, F]
    left, sizes, bases = np.linalg.svd(z, full_matrices=False)
    # The line that is nearest to all planes: the first singular vector of their bases together, by
    # the products of these few with one another (a decomposition of all took 100 times as long).
    joined = bases.reshape(images, count * parts, -1)
    first = np.linalg.eigh(joined @ joined.transpose(0, 2, 1))[1][:, :, -1]
    line = np.einsum("nk,nkf->nf", first, joined)
    line /= np.linalg.norm(line, axis=1, keepdims=True)  # [N, F]
    # In each release the mixture w with |w| = 1 that lies along it: w z = length * line.
    along = np.einsum("nrpf,nf->nrp", bases, line) / np.maximum(sizes, np.finfo(float).tiny)
    mixture = np.einsum("nrqp,nrp->nrq", left, along)
    lengths = 1 / np.maximum(np.linalg.norm(mixture, axis=-1), np.finfo(float).tiny)
    found = line * np.median(lengths, axis=1)[:, None]
    found *= np.where(np.sum(found**3, axis=1) < 0, -1.0, 1.0)[:, None]
    hidden = np.float32(found).reshape(images, *place, depth // parts)
    return np.concatenate([hidden, *[np.zeros_like(hidden)] * (parts - 1)], axis=-1)
