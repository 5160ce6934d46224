"""How well each channel alone tells classes apart: Fisher's linear discriminability. NumPy only.

PrivyNet (arXiv:1709.06161) prunes channels with it. A channel's h x w numbers for an image are one
feature vector of d = h * w. The paper's own formula was not at hand: the trace, the shrinkage and
the averaging (`pruning`) are choices made here.

    scores = fisher_scores(representations, labels)  # [N, h, w, C], [N] -> float64 [C]

The score is the trace criterion, tr(S_W^-1 S_B), of the scatter matrices

    S_W = 1/N sum_i (x_i - mean of i's class)(...)^T     within classes
    S_B = 1/N sum_i (mean of i's class - mean)(...)^T    between classes

S_W is shrunk towards a multiple of the identity, (1 - s) S_W + s tr(S_W)/d I, because a small
sample does not pin down d * d covariances: without it, directions in which the sample happens to
vary little within classes decide. The shrinkage is one constant, so that channels can be compared.
"""

import numpy as np

from privynet_jax.errors import UserError

SHRINKAGE = 0.1
# Of the mean square: what float32 representations of equal pictures may scatter by rounding.
_LEAST_RELATIVE_VARIANCE = 1e-12
# Of the scatter of all: keeps the score finite where nothing varies within classes.
_LEAST_WITHIN = 1e-12


def fisher_scores(
    representations: np.ndarray, labels: np.ndarray, shrinkage: float = SHRINKAGE
) -> np.ndarray:
    """Returns float64 [C], the score of each channel, 0 for a channel that does not vary.

    Where each image may have several labels, int [N, L] of 0 and 1, it is the mean of the scores
    of each label alone, of those that tell images apart.

    It does not change when a channel is multiplied by a positive number. Images that are alone in
    their class are left out: they tell nothing of the scatter within it. The shrinkage is the share
    of the identity in S_W, 0 to 1. Raises UserError where fewer than two classes have two images.
    """
    if representations.ndim != 4 or labels.shape[:1] != representations.shape[:1]:
        raise ValueError(
            "Expected representations [N, h, w, C] and labels [N] or [N, L], "
            f"got {representations.shape} and {labels.shape}"
        )
    if labels.ndim == 2:
        telling = [own for own in labels.T if min(own.sum(), len(own) - own.sum()) > 1]
        # Without any, the first one is refused.
        scores = [fisher_scores(representations, own, shrinkage) for own in telling or labels.T[:1]]
        return np.mean(scores, axis=0)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    usable = counts[classes] > 1
    if np.count_nonzero(counts > 1) < 2:
        raise UserError(
            f"the sample has {np.count_nonzero(counts > 1)} classes with two images or more; "
            "channels are scored by at least two such classes; give a larger sample"
        )
    members = np.float64(classes[usable, None] == np.flatnonzero(counts > 1))
    by_channel = np.moveaxis(representations[usable], -1, 0).reshape(
        representations.shape[-1], len(members), -1
    )
    return np.array([_score(np.float64(x), members, shrinkage) for x in by_channel])


def _score(x: np.ndarray, members: np.ndarray, shrinkage: float) -> float:
    """The score of vectors [N, d], with `members` [N, K] one-hot."""
    scale = np.mean(np.square(x))
    x = x - x.mean(axis=0)
    variance = np.mean(np.square(x))
    if variance <= _LEAST_RELATIVE_VARIANCE * scale:
        return 0.0
    x = x / np.sqrt(variance)
    means = (members.T @ x) / members.sum(axis=0)[:, None]
    of_class = members @ means
    within = (x - of_class).T @ (x - of_class) / len(x)
    between = of_class.T @ of_class / len(x)
    identity = np.eye(x.shape[1])
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(identity) * identity
    return float(np.trace(np.linalg.solve(shrunk + _LEAST_WITHIN * identity, between)))
