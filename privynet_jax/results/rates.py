"""A number with its interval, as all inference attacks report theirs. NumPy only."""

import dataclasses

import numpy as np

from privynet_jax.results.statistics import bootstrap, mean_of


@dataclasses.dataclass(frozen=True)
class Rate:
    """A number and its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float


def mean_rate(values: np.ndarray) -> Rate:
    """Returns the mean over images [N], with its interval."""
    return Rate(float(np.mean(values)), *bootstrap(values, {"mean": mean_of})["mean"])


def median_rate(values: np.ndarray) -> Rate:
    """Returns the median over images [N], with its interval."""
    interval = bootstrap(values, {"median": lambda samples: np.median(samples, axis=1)})["median"]
    return Rate(float(np.median(values)), *interval)
