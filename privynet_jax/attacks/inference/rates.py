"""How well scores tell members from others: ROC curves, and rates with intervals over groups.

found = rates(members, others, at=0.01, groups=(groups_of_members, groups_of_others))
found.auc.value, found.tpr.low
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from privynet_jax.results.statistics import Interval, resampled


class Rates(NamedTuple):
    """How well scores tell members from others, with 95 % percentile-bootstrap intervals.

    Attributes:
        tpr: true positive rate at a false positive rate; by chance as much.
        auc: area under the ROC curve; 0.5 by chance.
    """

    tpr: Interval
    auc: Interval


class Curve(NamedTuple):
    """Rates at every threshold that some score sets, from "nobody" to "everybody".

    Attributes:
        false: float64 [..., T], share of the others that score at least the threshold; ascending.
        true: float64 [..., T], share of the members that do.
    """

    false: np.ndarray
    true: np.ndarray


def roc(members: np.ndarray, others: np.ndarray) -> Curve:
    """Returns the curve of scores float [M] and [N]; equal ones are one diagonal step.

    Raises:
        ValueError: one of them is empty, or a score is NaN.
    """
    return _curves(members, others)(np.ones(len(members), int), np.ones(len(others), int))


def area(curve: Curve) -> np.ndarray:
    """Returns the area under the curve: the chance that a member outscores another, ties half."""
    return np.trapezoid(curve.true, curve.false, axis=-1)


def true_positives(curve: Curve, at: float) -> np.ndarray:
    """Returns the largest true positive rate at thresholds with a false positive rate up to `at`.

    A threshold has to be one: rates between two thresholds are not interpolated.
    """
    # A rate of 15 in 1500 is within 0.01, however it was rounded.
    return np.where(curve.false <= at + 1e-12, curve.true, 0).max(axis=-1)


def rates(
    members: np.ndarray,
    others: np.ndarray,
    at: float,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> Rates:
    """Returns the rates of scores as `roc` takes them, at a false positive rate.

    Members and others are resampled apart, by whole groups, int [M] and [N], where these are given;
    the threshold is found anew each time.
    """
    curves, whole = _curves(members, others), roc(members, others)
    samples = groups or (np.arange(len(members)), np.arange(len(others)))

    def interval(number: Callable[[Curve], np.ndarray]) -> Interval:
        ends = resampled(lambda *counts: number(curves(*counts)), *samples)
        return Interval(float(number(whole)), *ends)

    return Rates(tpr=interval(lambda curve: true_positives(curve, at)), auc=interval(area))


def _curves(members: np.ndarray, others: np.ndarray) -> Callable[[np.ndarray, np.ndarray], Curve]:
    """Makes curves of how often each member, int [..., M], and each other, int [..., N], counts."""
    scores = np.concatenate([np.float64(members), np.float64(others)])
    if not len(members) or not len(others) or np.isnan(scores).any():
        raise ValueError("Expected scores of at least one member and one other, none of them NaN")
    # Thresholds descend; one takes in all scores that are equal.
    distinct, threshold = np.unique(-scores, return_inverse=True)

    def rates_of(counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        order = np.argsort(thresholds)
        passed = np.searchsorted(thresholds[order], np.arange(len(distinct) + 1))
        taken = np.cumsum(counts[..., order], axis=-1)
        taken = np.concatenate([np.zeros_like(taken[..., :1]), taken], axis=-1)
        return taken[..., passed] / taken[..., -1:]

    own, foreign = threshold[: len(members)], threshold[len(members) :]
    return lambda of_members, of_others: Curve(
        rates_of(of_others, foreign), rates_of(of_members, own)
    )
