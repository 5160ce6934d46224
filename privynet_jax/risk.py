"""Statistics of per-image metrics: most people's case, and that of the worst protected picture.

NumPy only, so that tables can be read and planned from where JAX is not installed. `grid` hands
over values per image, `results` keeps the summaries.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A per-image metric over one part of the data.

    Attributes:
        mean: over the images.
        p95: the value that one image in twenty exceeds (linear interpolation).
        max: of the worst image; for privacy metrics the largest value is the worst.
    """

    mean: float
    p95: float
    max: float


def summarise(values: np.ndarray) -> Distribution:
    """Summarises per-image values [N].

    Raises:
        ValueError: there is no image, or a value is NaN or infinite: that is a defect upstream and
            must not become a statistic.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"Expected finite values of at least one image, got {values}.")
    return Distribution(
        mean=float(values.mean()), p95=float(np.percentile(values, 95)), max=float(values.max())
    )
