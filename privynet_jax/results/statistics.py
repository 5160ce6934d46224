"""Statistics of values per image and per draw, and how sure they are: every interval is made here.

No JAX, so that tables can be read and planned from where it is not installed.

    summarise(psnr_db_of_images).p99
    bootstrap(psnr_db_of_images, p95_of).low       # over images
    student_mean([14.2, 15.1, 13.9]).plus_minus()  # '14.4 ±1.6'
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # finds its own parts when they are used: scipy.stats takes half a second

# Of all intervals but those for one new draw.
CONFIDENCE = 0.95
RESAMPLES = 1000
# Values drawn at once while resampling, which bounds the memory that it takes.
_AT_ONCE = 2**21

# A statistic of many resamples at once, each of which takes image n so many times:
# values float64 [N], counts int [resamples, N] -> float64 [resamples].
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number, and the ends between which it is to be expected: NaN where nothing tells them."""

    value: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2

    def columns(self, name: str) -> dict[str, float]:
        """Returns it as columns of a table: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def plus_minus(self, digits: int = 1) -> str:
        """Returns it for people to read, where the number lies in the middle."""
        margin = "" if math.isnan(self.margin) else f" ±{self.margin:.{digits}f}"
        return f"{self.value:.{digits}f}{margin}"


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A per-image metric over one part of the data; percentiles are interpolated linearly."""

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
    values = checked(values)
    median, p95, p99 = map(float, np.percentile(values, (50, 95, 99)))
    return Distribution(float(values.mean()), median, p95, p99, float(values.max()))


def mean_of(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The statistic "mean"."""
    return counts @ values / counts.sum(axis=1)


def quantile_of(values: np.ndarray, counts: np.ndarray, *, share: float) -> np.ndarray:
    """The statistic that a share of the images stays under, interpolated as NumPy does."""
    order = np.argsort(values)
    ranked, ranks = values[order], np.cumsum(counts[:, order], axis=1)
    place = share * (ranks[:, -1] - 1)
    below, above = (
        ranked[(ranks <= rank[:, None]).sum(axis=1)] for rank in (np.floor(place), np.ceil(place))
    )
    return below + (place % 1) * (above - below)


median_of = functools.partial(quantile_of, share=0.5)
p95_of = functools.partial(quantile_of, share=0.95)
# The fields of `Distribution`; a resampled maximum is never above the maximum itself.
OF_DISTRIBUTIONS: dict[str, Statistic] = {
    "mean": mean_of,
    "median": median_of,
    "p95": p95_of,
    "p99": functools.partial(quantile_of, share=0.99),
    "max": functools.partial(quantile_of, share=1.0),
}


def bootstrap(
    values: np.ndarray, statistic: Statistic, groups: np.ndarray | None = None
) -> Interval:
    """Returns a statistic of per-image values and its 95 % interval, by the percentile bootstrap.

    Images are drawn with replacement, as many as there are, and the interval leaves out the lowest
    and the highest 2.5 % of what the statistic gives (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). It tells how much another sample of images of the same kind would
    change the number; not what another attacker, another draw or another training would. Images
    that come in clusters, such as patches of one photograph, make it too narrow: with `groups`,
    whole clusters are drawn instead.

    Args:
        values: [N], finite; else ValueError.
        statistic: such as `mean_of`.
        groups: int [N], from which photograph or person each image is; by default each stands
            alone. One group alone has no interval.
    """
    values = checked(values)
    groups = np.arange(len(values)) if groups is None else groups
    whole = statistic(values, np.ones((1, len(values)), np.int64))
    return Interval(float(whole[0]), *resampled(functools.partial(statistic, values), groups))


def resampled(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the percentile bootstrap's 95 % interval; NaN for a sample of one group.

    Samples are the groups of images, int [N] each, and are resampled apart from each other. The
    statistic takes counts int [R, N] for each, how often each image was drawn, to float64 [R].
    """
    members = [np.unique(groups, return_inverse=True) for groups in samples]
    if any(len(names) < 2 for names, _ in members):
        return math.nan, math.nan
    # The same in every call, so that a table says the same when it is printed again.
    streams = [np.random.default_rng(index) for index in range(len(samples))]
    size = max(1, _AT_ONCE // sum(map(len, samples)))
    found = []
    for start in range(0, RESAMPLES, size):
        counts = []
        for stream, (names, member) in zip(streams, members, strict=True):
            drawn = stream.integers(len(names), size=(min(size, RESAMPLES - start), len(names)))
            # How often each group came in each row, and so each of its images.
            rows = np.arange(len(drawn))[:, None] * len(names)
            came = np.bincount((drawn + rows).ravel(), minlength=drawn.size)
            counts.append(came.reshape(drawn.shape)[:, member])
        found.append(statistic(*counts))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(found), (tail, 100 - tail))
    return float(low), float(high)


def share_of(hits: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """Returns the share of images that are hit, [N] in [0, 1], and Wilson's (1927) 95 % interval.

    Images of a group, int [N], are hit together more or less, so that N of them tell less than N
    independent ones. The interval is that of as many independent ones as would give the share's
    variance over groups, linearised (Korn and Graubard 1998, Survey Methodology 24(2), 193-201); of
    as many as there are groups where all or none are hit, which tells no variance.
    """
    hits = checked(hits)
    share, count = float(hits.mean()), float(len(hits))
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1]
        sums = np.bincount(members, weights=hits - share)
        binomial, number = share * (1 - share), len(sums)
        among = float(sums @ sums) * number / max(1, number - 1) / count**2
        # A variance of rounding alone is none.
        varies = number > 1 and among > 1e-12 * binomial
        count = min(count, binomial / among) if varies else float(number)
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def quantile_bound(values: np.ndarray, share: float) -> float:
    """Returns what at least a share of new images stays under, with 95 % confidence.

    It is an order statistic of independent values [N] (Hahn and Meeker, Statistical Intervals,
    1991, section 5.2), so it supposes no distribution; infinite of fewer than 59 for 95 %.
    """
    values = np.sort(checked(values))
    place = int(scipy.stats.binom.ppf(CONFIDENCE, len(values), share))
    return float(values[place]) if place < len(values) else math.inf


def proven_share(kept: int, trials: int, among: int = 1) -> float:
    """Returns the least share of trials that are kept, with 95 % confidence, after so many.

    By Clopper and Pearson 1934 (doi:10.1093/biomet/26.4.404), one-sided: 30 of 30 prove 90 %. One
    of several statements `among` which none is to be wrong proves less (Bonferroni).
    """
    error = (1 - CONFIDENCE) / among
    return float(scipy.stats.beta.ppf(error, kept, trials - kept + 1)) if kept else 0.0


def conformal_bound(values: np.ndarray, share: float) -> float:
    """Returns what a new value stays under with this probability, if it is exchangeable with these.

    It is the ceil((n + 1) share)-th smallest of n (Vovk, Gammerman and Shafer, Algorithmic Learning
    in a Random World, 2005); infinite where they are too few, as fewer than 19 for 95 %.
    """
    values = np.sort(checked(values))
    rank = math.ceil(round((len(values) + 1) * share, 9))
    return float(values[rank - 1]) if rank <= len(values) else math.inf


def student_mean(values: Sequence[float]) -> Interval:
    """Returns a mean over draws with its 95 % interval by Student's t; one draw alone has none."""
    deviation, freedom = pooled_deviation([values])
    return _by_student(values, deviation / math.sqrt(len(values)), freedom, CONFIDENCE)


def welch_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Returns the difference of two means over draws, ours less theirs, with its 95 % interval.

    By Welch's t, which allows for unequal spreads; a draw alone has no interval.
    """
    difference = float(np.mean(ours) - np.mean(theirs))
    if min(len(ours), len(theirs)) < 2:
        return Interval(difference, math.nan, math.nan)
    test = scipy.stats.ttest_ind(ours, theirs, equal_var=False)
    return Interval(difference, *map(float, test.confidence_interval(CONFIDENCE)))


def new_draw(
    values: Sequence[float], deviation: float, freedom: float, coverage: float
) -> Interval:
    """Returns the mean of n draws, and the prediction interval that one more draw falls into.

    It is mean +- t s sqrt(1 + 1/n), with Student's t (Hahn and Meeker, Statistical Intervals, 1991,
    section 4.7). The standard deviation s of draws may be of more draws than these; its degrees of
    freedom are infinite where it is known.
    """
    return _by_student(values, deviation * math.sqrt(1 + 1 / len(values)), freedom, coverage)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Returns the standard deviation of values around the mean of their group, and its freedom.

    The first is NaN where there are no degrees of freedom, that is, no group has two values.
    """
    freedom = sum(len(values) - 1 for values in groups)
    squares = sum(float(np.var(values)) * len(values) for values in groups)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


def _by_student(
    values: Sequence[float], deviation: float, freedom: float, coverage: float
) -> Interval:
    """The mean, and Student's t times a deviation around it: normal at inf, NaN without freedom."""
    mean, upper = float(np.mean(values)), (1 + coverage) / 2
    normal = math.isinf(freedom)
    times = scipy.special.ndtri(upper) if normal else scipy.special.stdtrit(freedom, upper)
    reach = float(times) * deviation
    return Interval(mean, mean - reach, mean + reach)


def checked(values: np.ndarray) -> np.ndarray:
    """Returns values as float64; ValueError: there are none, or not all are finite."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"Expected finite values of at least one image, got {values}.")
    return values
