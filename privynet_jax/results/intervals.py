"""Means over draws with 95 % confidence intervals, by Student's t.

Mean.of([14.2, 15.1, 13.9]).text()  # '14.4 ±1.6'
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over draws, and half the width of its 95 % confidence interval (Student's t)."""

    value: float
    margin: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Summarises draws; one alone has no interval."""
        if len(values) < 2:
            return cls(float(values[0]), math.nan)
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        spread = np.std(values, ddof=1) / math.sqrt(len(values))
        return cls(float(np.mean(values)), float(quantile * spread))

    @classmethod
    def of_difference(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Mean":
        """The difference of two means, by Welch's t, which allows for unequal spreads."""
        difference = float(np.mean(ours) - np.mean(theirs))
        if min(len(ours), len(theirs)) < 2:
            return cls(difference, math.nan)
        interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
        return cls(difference, float(interval.high - interval.low) / 2)

    def text(self, digits: int = 1) -> str:
        """Returns it for people to read."""
        margin = "" if math.isnan(self.margin) else f" ±{self.margin:.{digits}f}"
        return f"{self.value:.{digits}f}{margin}"
