"""How far audits are from what plans measured: margins from episodes, and what they prove.

An episode is one source of pictures: a plan is made for it, and audited on other pictures of it.
The margin is what a new source's difference stays under in 95 % of cases, by conformal prediction
over sources (`statistics.conformal_bound`). It is the k-th smallest of n differences, or 0 with k
of n at most that; either proves that a share of further sources stays under it, by Clopper and
Pearson's bound for k of n (of order statistics: Wilks 1941, doi:10.1214/aoms/1177731788). That
takes sources that are independent. No JAX here.

    episodes = read_episodes(Path("runs/episodes/episodes.csv"))
    margins, promise = promise_of(episodes, limits, image_size=32)
    margins["psnr_db"], promise.kept, promise.episodes, promise.proven
"""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.planning.plan import Limits, Promise
from privynet_jax.planning.planner import MARGINS
from privynet_jax.results.statistics import conformal_bound, proven_share

# Of new plans, those that are to keep their limits.
SHARE = 0.95
LEAST_SOURCES = math.ceil(round(SHARE / (1 - SHARE), 9)) + 1  # one more than a bound takes
# Of what `experiments.check_planning` tries, how plans are made.
RULE = "measured"
# What plans rest on that are given no others: photographs by twos, see experiments/RESULTS.md.
USUAL_EPISODES = Path(__file__).with_name("episodes.csv")
_METRICS, _KINDS = ("psnr_db", "ssim"), ("measured", "audited")


@dataclasses.dataclass(frozen=True)
class Episode:
    """What a plan measured before it was written, and what its audit found.

    Attributes:
        source: whose pictures; episodes of one source are resampled, and left out, together.
        statistic: of privacy loss over images.
        measured: metric -> on the sample.
        audited: metric -> on test images.
        image_size: of the pictures, in pixels.
    """

    source: str
    statistic: str
    measured: Mapping[str, float]
    audited: Mapping[str, float]
    image_size: int

    def excess(self, metric: str) -> float:
        """Returns the margin that this plan would have needed."""
        return self.audited[metric] - self.measured[metric]


def read_episodes(path: Path) -> list[Episode]:
    """Returns the episodes of a table that `experiments.check_planning` wrote.

    Raises:
        UserError: it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        episodes = [
            Episode(
                row["source"],
                row["statistic"],
                *({m: float(row[f"{kind}_{m}"]) for m in _METRICS} for kind in _KINDS),
                int(row["image_size"]),
            )
            for row in rows
            if row["rule"] == RULE and row["measured_psnr_db"]  # else nothing was planned
        ]
        if not all(math.isfinite(e.excess(metric)) for e in episodes for metric in _METRICS):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise UserError(
            f"{path} has no episodes; give the episodes.csv that experiments.check_planning writes"
        ) from None
    return episodes


def usual_margins(limits: Limits, image_size: int) -> tuple[Mapping[str, float], Promise | None]:
    """Returns what comes of `USUAL_EPISODES`: guesses that promise nothing where these are few."""
    episodes = read_episodes(USUAL_EPISODES)
    if len(_needs(episodes, limits, image_size)) < LEAST_SOURCES:
        return MARGINS, None
    return promise_of(episodes, limits, image_size)


def promise_of(
    episodes: Sequence[Episode], limits: Limits, image_size: int
) -> tuple[dict[str, float], Promise]:
    """Returns metric -> the margin that keeps it in 95 % of new plans, 0 at least; and a promise.

    Episodes are those of the limits' statistic, of images of that size. Of a source's the largest
    difference counts. The promise is of all metrics that have a limit together, PSNR where none has
    one.

    Raises:
        UserError: they are of too few sources, which is fewer than 20 for 95 %.
    """
    needs = _needs(episodes, limits, image_size)
    if len(needs) < LEAST_SOURCES:
        raise UserError(
            f"the episodes are of {len(needs)} sources with the statistic {limits.statistic} and "
            f"images of {image_size} pixels; {100 * SHARE:.0f} % take {LEAST_SOURCES}; run "
            "experiments.check_planning on more sources"
        )
    margins = {m: _margin(values) for m, values in zip(_METRICS, needs.T, strict=True)}
    limited = [i for i, metric in enumerate(_METRICS) if metric in limits.given()] or [0]
    within = (needs <= list(margins.values()))[:, limited]
    # Each metric is missed by as much at most, but for a part of what confidence leaves out.
    missed = sum(1 - proven_share(int(n), len(needs), len(limited)) for n in within.sum(axis=0))
    return margins, Promise(len(needs), int(within.all(axis=1).sum()), max(0.0, 1 - missed))


def _needs(episodes: Sequence[Episode], limits: Limits, image_size: int) -> np.ndarray:
    """The largest differences of each source, [sources, metrics]."""
    found: dict[str, list[list[float]]] = {}
    for each in episodes:
        if (each.statistic, each.image_size) == (limits.statistic, image_size):
            found.setdefault(each.source, []).append([each.excess(m) for m in _METRICS])
    return np.array([np.max(rows, axis=0) for rows in found.values()]).reshape(-1, len(_METRICS))


def _margin(needed: np.ndarray) -> float:
    return max(0.0, conformal_bound(needed, SHARE))
