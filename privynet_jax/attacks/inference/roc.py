"""How well scores tell members from others: the ROC curve, exactly, ties included. NumPy only.

curve = roc(scores_of_members, scores_of_others)   # larger: rather a member
area(curve), true_positives(curve, at=0.01)
intervals(scores_of_members, scores_of_others, at=0.01)["tpr"]  # (low, high)
"""

from typing import NamedTuple

import numpy as np

_RESAMPLES = 1000
_CONFIDENCE = 0.95


class Curve(NamedTuple):
    """Rates at every threshold that some score sets, from "nobody" to "everybody".

    Attributes:
        false: float64 [T], share of the others that score at least the threshold; ascending.
        true: float64 [T], share of the members that do.
    """

    false: np.ndarray
    true: np.ndarray


def roc(members: np.ndarray, others: np.ndarray) -> Curve:
    """Returns the curve; equal scores move it both ways at once, in one diagonal step.

    Args:
        members: float [M], scores of members, larger where membership is more likely.
        others: float [N].

    Raises:
        ValueError: one of them is empty, or a score is NaN.
    """
    return _curve(*_counts(members, others))


def area(curve: Curve) -> float:
    """Returns the area under the curve: the chance that a member outscores another, ties half."""
    return float(np.trapezoid(curve.true, curve.false))


def true_positives(curve: Curve, at: float) -> float:
    """Returns the largest true positive rate at thresholds with a false positive rate up to `at`.

    A threshold has to be one: rates between two thresholds are not interpolated.
    """
    # A rate of 15 in 1500 is within 0.01, however it was rounded.
    return float(curve.true[curve.false <= at + 1e-12].max())


def intervals(
    members: np.ndarray, others: np.ndarray, at: float, *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Returns 95 % percentile-bootstrap intervals of "auc" and "tpr" (at a false positive rate).

    Members and others are resampled apart, and the threshold is found anew each time.
    """
    of_members, of_others = _counts(members, others)
    stream = np.random.default_rng(seed)
    found = np.empty((_RESAMPLES, 2))
    for index in range(_RESAMPLES):
        drawn = (
            stream.multinomial(counts.sum(), counts / counts.sum())
            for counts in (of_members, of_others)
        )
        curve = _curve(*drawn)
        found[index] = area(curve), true_positives(curve, at)
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(found, (tail, 100 - tail), axis=0)
    return {
        name: (float(low[column]), float(high[column]))
        for column, name in enumerate(("auc", "tpr"))
    }


def _counts(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many members, and how many others, have each distinct score, the largest first."""
    members, others = np.float64(members), np.float64(others)
    if not len(members) or not len(others) or np.isnan(np.concatenate([members, others])).any():
        raise ValueError("Expected scores of at least one member and one other, none of them NaN")
    scores = np.unique(np.concatenate([members, others]))

    def count(values: np.ndarray) -> np.ndarray:
        return np.bincount(np.searchsorted(scores, values), minlength=len(scores))[::-1]

    return count(members), count(others)


def _curve(of_members: np.ndarray, of_others: np.ndarray) -> Curve:
    true, false = (np.concatenate([[0], np.cumsum(c)]) / c.sum() for c in (of_members, of_others))
    return Curve(false, true)
