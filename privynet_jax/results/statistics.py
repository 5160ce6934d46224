"""Statistics of per-image metrics: most people's case, and that of the worst protected picture.

NumPy only, so that tables can be read and planned from where JAX is not installed. `grid` hands
over values per image, `results` keeps the summaries, `risk_tables` tells how sure they are.

    summarise(psnr_db_of_images).p99
    bootstrap(psnr_db_of_images, {"mean": MEAN, "p95": P95})["p95"]  # (low, high)
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

# Of bootstrap intervals.
CONFIDENCE = 0.95
RESAMPLES = 1000
# Values drawn at once while resampling, which bounds the memory that it takes.
_AT_ONCE = 2**21

# A statistic of many samples at once: [resamples, N] -> [resamples].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A per-image metric over one part of the data.

    Attributes:
        mean: over the images.
        median: the value that one image in two exceeds.
        p95: the value that one image in twenty exceeds (linear interpolation).
        p99: the value that one image in a hundred exceeds.
        max: of the worst image; for privacy metrics the largest value is the worst.
    """

    mean: float
    median: float
    p95: float
    p99: float
    max: float


def summarise(values: np.ndarray) -> Distribution:
    """Summarises per-image values [N].

    Raises:
        ValueError: there is no image, or a value is NaN or infinite: that is a defect upstream and
            must not become a statistic.
    """
    values = _checked(values)
    median, p95, p99 = map(float, np.percentile(values, (50, 95, 99)))
    return Distribution(float(values.mean()), median, p95, p99, float(values.max()))


def mean_of(samples: np.ndarray) -> np.ndarray:
    """The statistic "mean": [resamples, N] -> [resamples]."""
    return samples.mean(axis=1)


def p95_of(samples: np.ndarray) -> np.ndarray:
    """The statistic "95th percentile": [resamples, N] -> [resamples]."""
    return np.percentile(samples, 95, axis=1)


def bootstrap(
    values: np.ndarray,
    statistics: Mapping[str, Statistic],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """Returns 95 % intervals of statistics of per-image values, by the percentile bootstrap.

    Images are drawn with replacement, as many as there are, and the interval leaves out the lowest
    and the highest 2.5 % of what the statistic gives (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). It tells how much another sample of images of the same kind would
    change the number; not what another attacker, another draw or another training would. Images
    are taken as independent: where they come in clusters, such as patches of one photograph, it is
    too narrow.

    Args:
        values: [N].
        statistics: name -> function.
        seed: of the resampling; the same for every call unless told otherwise.
        resamples: how many.

    Raises:
        ValueError: as `summarise`.
    """
    values = _checked(values)
    stream = np.random.default_rng(seed)
    size = max(1, _AT_ONCE // len(values))
    found: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for start in range(0, resamples, size):
        shape = (min(size, resamples - start), len(values))
        samples = values[stream.integers(len(values), size=shape)]
        for name, statistic in statistics.items():
            found[name].append(statistic(samples))
    tail = 50 * (1 - CONFIDENCE)
    intervals = {}
    for name, chunks in found.items():
        low, high = np.percentile(np.concatenate(chunks), (tail, 100 - tail))
        intervals[name] = (float(low), float(high))
    return intervals


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"Expected finite values of at least one image, got {values}.")
    return values
