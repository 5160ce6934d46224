"""Contributors side by side: what each brought, and whose rows or labels are unlike the others'.

    told = contributors(data, held_out, right)
    told[3].strange  # "" or what is strange about it

How channels vary together is the network's doing more than the pictures': with another package's
channels, in another order, or with made-up numbers, the covariance of log(1 + x) is no multiple of
the others'. That is measured by the logarithm of Mauchly's criterion of sphericity (1940,
doi:10.1214/aoms/1177731915), after the others' covariance is divided out, in deviations beyond what
is usual of as many rows. Labels are judged by rows held out, against how often the others' rows of
these classes are right.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy  # finds its own parts when they are used

from privynet_jax.deployment.cloud.contributions import Contributions

# With fewer contributors nobody can say which of them is the strange one.
LEAST = 5
# In standard deviations; experiments/RESULTS.md has what reaches it.
_MOST_DISTANCE = 4.0
# Of honest contributors' criteria, in logarithms: they never agree better than this.
_LEAST_DEVIATION = 0.25
_KEPT, _ROUNDS = 0.75, 4
_MOST_COMPARED = 500
# Of one class, from whose accuracy something follows for one more row.
_LEAST_OTHERS = 5
_RIDGE, _LEAST = 1e-3, 1e-9
# Of at least one honest contributor being named for its labels, over all of them.
_FALSE_ALARM = 0.01
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclasses.dataclass(frozen=True)
class Contributor:
    """One release among many.

    Attributes:
        release: its id.
        rows: that count.
        repeated: that others, or other releases of the same contributor, have as well.
        contradicting: whose equals have another class; none of them counts.
        classes: how many occur.
        held_out: of the rows, those that nothing was learnt from.
        accuracy: on these; NaN without any.
        distance: of its channels' covariance from the others', see above; NaN where few contribute.
        strange: what makes it unlike the others, in words, else nothing.
    """

    release: str
    rows: int
    repeated: int
    contradicting: int
    classes: int
    held_out: int
    accuracy: float
    distance: float
    strange: str


def contributors(data: Contributions, held_out: np.ndarray, right: np.ndarray) -> list[Contributor]:
    """Returns what there is to say of each release.

    Args:
        data: all rows.
        held_out: int [n], numbers of those that nothing was learnt from.
        right: [n], whether the classifier is right there; with several labels for each row, the
            share of them in which it is. Nobody is named for that: harder rows have less.
    """
    count = len(data.releases)
    several, owners, labels = data.labels.ndim == 2, data.owners[held_out], data.labels[held_out]
    distances = _distances(data)
    unlikely = [False] * count if several else _unlikely(owners, labels, right, count)
    rows, judged = (np.bincount(each, minlength=count) for each in (data.owners, owners))
    successes = np.bincount(owners, weights=right, minlength=count)
    if several:
        classes = [
            int((data.labels[data.owners == n] == 1).any(axis=0).sum()) for n in range(count)
        ]
    else:
        pairs = np.unique(np.stack([data.owners, data.labels]), axis=1)[0]
        classes = np.bincount(pairs, minlength=count)
    found = []
    for place, release in enumerate(data.releases):
        reasons = []
        if distances[place] > _MOST_DISTANCE:
            reasons.append("rows unlike the others'")
        if unlikely[place]:
            reasons.append("labels that the others' contradict")
        found.append(
            Contributor(
                release=release,
                rows=int(rows[place]),
                repeated=int(data.repeated[place]),
                contradicting=int(data.contradicting[place]),
                classes=int(classes[place]),
                held_out=int(judged[place]),
                accuracy=successes[place] / judged[place] if judged[place] else float("nan"),
                distance=float(distances[place]),
                strange=" and ".join(reasons),
            )
        )
    return found


def _distances(data: Contributions) -> np.ndarray:
    """Float [releases]; NaN of those without rows, and of all where they are few."""
    rows = np.bincount(data.owners, minlength=len(data.releases))
    distances = np.full(len(data.releases), np.nan)
    there = np.flatnonzero(rows)
    if data.moments is None or len(there) < LEAST:
        return distances
    criteria, sizes = np.log(_sphericity(data.moments[there]) + _LEAST), np.log(rows[there])
    some = np.linspace(0, len(there) - 1, min(len(there), _MOST_COMPARED)).astype(int)
    # Of as many rows: by chance alone the criterion falls with their number, and no faster.
    usual = criteria[some] + np.maximum(sizes[some] - sizes[:, None], 0)
    beyond = criteria - np.median(usual, axis=1)
    deviation = _MAD_TO_DEVIATION * np.median(np.abs(beyond - np.median(beyond)))
    distances[there] = beyond / max(deviation, _LEAST_DEVIATION)
    return distances


def _sphericity(moments: np.ndarray) -> np.ndarray:
    """Float [n], 0 where a covariance is a multiple of the others'."""
    covariances, weights = _covariances(moments), moments[:, 0, 0]
    weights = np.minimum(weights, np.median(weights))  # none is "the others" by its size
    kept = np.ones(len(covariances), bool)
    for _ in range(_ROUNDS):  # the most unlike ones are left out of what is compared with
        together = np.average(covariances[kept], axis=0, weights=weights[kept])
        quotients = [scipy.linalg.eigvalsh(each, together) for each in covariances]
        eigenvalues = np.maximum(quotients, _LEAST)
        criteria = np.log(eigenvalues.mean(axis=1)) - np.log(eigenvalues).mean(axis=1)
        kept = criteria <= np.quantile(criteria, _KEPT)
    return criteria


def _covariances(moments: np.ndarray) -> np.ndarray:
    """Float64 [n, D, D], with a little more on the diagonals, so that all can be divided by."""
    averages = moments / moments[:, :1, :1]
    means = averages[:, 0, 1:]
    covariances = averages[:, 1:, 1:] - means[:, :, None] * means[:, None, :]
    channels = covariances.shape[-1]
    sizes = np.trace(covariances, axis1=1, axis2=2)[:, None, None] / channels
    return covariances + (_RIDGE * sizes + _LEAST) * np.eye(channels)


def _unlikely(
    owners: np.ndarray, labels: np.ndarray, right: np.ndarray, count: int
) -> Sequence[bool]:
    """Whether so few of a release's held-out rows would hardly be right by chance alone.

    Expected is, of each row, the accuracy on other releases' rows of its class; what is right of
    several such rows is distributed as a sum of their Bernoulli trials (Poisson's binomial).
    """
    classes = int(labels.max(initial=0)) + 1
    pairs = owners.astype(int) * classes + labels
    seen, successes = (
        np.bincount(pairs, weights=each, minlength=count * classes).reshape(count, classes)
        for each in (None, right)
    )
    others = seen.sum(axis=0) - seen
    # As after one right and one wrong answer (Laplace): few rows prove little.
    chances = (successes.sum(axis=0) - successes + 1) / (others + 2)
    unlikely = []
    for place in range(count):
        counted = (others[place] >= _LEAST_OTHERS) & (seen[place] > 0)
        distribution = np.ones(1)
        for label in np.flatnonzero(counted):
            for _ in range(int(seen[place, label])):
                chance = chances[place, label]
                distribution = np.convolve(distribution, [1 - chance, chance])
        tail = distribution[: int(successes[place, counted].sum()) + 1].sum()
        unlikely.append(bool(counted.any() and tail < _FALSE_ALARM / count))
    return unlikely
