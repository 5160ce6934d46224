"""What an audit found: every limit, every attacker, and its verdict; its JSON file.

`audit` measures. No JAX here.

    Finding("psnr_db", limit=20.0, expected=18.0, found=21.5).verdict  # BROKEN
    audit.write(Path("audit.json"))
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

from privynet_jax.platform.files import write_atomically
from privynet_jax.results.statistics import Distribution, Interval

# Of a limit, and of an audit: what was found is above it; it is not, but may be with more pictures
# or longer training; it is not, and nothing says that it would be.
BROKEN, INCONCLUSIVE, KEPT = "BROKEN", "inconclusive", "kept"
# Fewer pairs teach an attacker less than it could know (experiments/RESULTS.md, "What the attacker
# knows").
LEAST_PAIRS = 1000
# Statistic -> the fewest sources whose resampling says something: Cameron, Gelbach and Miller 2008
# (doi:10.1162/rest.90.3.414) call up to 30 clusters few, and behind a percentile there have to be
# some five. Nothing that is resampled is above the maximum.
LEAST_SOURCES = {"mean": 30, "median": 30, "p95": 100, "p99": 500}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One limit or expectation, and what was found.

    Of privacy loss, it says whose it is, and on how many test images it was found: not all
    attackers are scored on all of them, and percentiles of fewer say less.
    """

    what: str  # a limit's name of `plan.Limits`, or one of `accuracies.accuracies`
    limit: float | None  # None where there is only an expectation
    expected: float | None  # None where it was counted, not measured
    found: float  # the worst over attackers and repeats, or for accuracies the mean over repeats
    attacker: str | None = None
    images: int | None = None
    doubts: tuple[str, ...] = ()  # why a limit that was not exceeded may yet be

    @property
    def verdict(self) -> str:
        """`KEPT`, `BROKEN` or `INCONCLUSIVE`; an expectation alone breaks no promise."""
        if self.limit is None:
            return KEPT
        if self.found > self.limit:
            return BROKEN
        # NaN is no news, and no good news.
        return INCONCLUSIVE if self.doubts or math.isnan(self.found) else KEPT


@dataclasses.dataclass(frozen=True)
class Attacked:
    """How well one attacker rebuilt test images in one repeat."""

    attacker: str
    knowledge: str  # what it has besides the representations under attack
    repeat: int  # from 0
    steps: int  # that its network was trained, or an image was optimised; 0 without either
    images: int  # test images that it was scored on
    psnr_db: Distribution  # over these, peak 1.0
    ssim: Distribution
    converged: bool  # whether more of it would gain little, as the attacker reports of itself
    sources: int  # photographs, persons or groups of copies that these images are of
    # Metric -> upper end of the 95 % interval of the plan's statistic over sources; None of one.
    upper: Mapping[str, float | None]
    gain_db: Interval | None = None  # of PSNR, with ten times the training; None: not known

    def reached(self, metric: str, statistic: str) -> float:
        """Returns a statistic, one of `plan.STATISTICS`, of "psnr_db" or "ssim"."""
        return getattr(getattr(self, metric), statistic)

    def doubts(self, metric: str, statistic: str, limit: float) -> list[str]:
        """Returns why this attacker, which stayed within a limit, does not show it kept."""
        found = []
        if statistic not in LEAST_SOURCES:
            found.append(f"a {statistic} over some images bounds no others; limit p95 or p99")
        elif self.sources < LEAST_SOURCES[statistic]:
            found.append(
                f"its {self.images} attacked images are of {self.sources} sources (photographs, "
                f"groups of copies, or single pictures); {LEAST_SOURCES[statistic]} are needed"
            )
        elif self.upper[metric] > limit:
            found.append(
                f"the 95 % interval over {self.sources} sources reaches {self.upper[metric]:.3g}"
            )
        if not self.converged and not (self.gain_db and metric == "psnr_db"):
            found.append("it had not converged")
        elif not self.converged:
            further = self.reached(metric, statistic) + self.gain_db.high
            if further > limit:
                found.append(
                    f"it had not converged, and ten times the training may reach {further:.3g}"
                )
        return [f"{self.attacker}: {doubt}" for doubt in found]


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    `difference_db` is by how much the PSNR that the characterisation's own attackers reached here
    differs from what the plan expected; None where not all of them attacked, or had more channels.
    """

    findings: tuple[Finding, ...]  # of privacy, costs, and accuracies last
    data: str  # name of the data set
    images: Mapping[str, int]  # part -> how many were used
    left_out: int  # pictures that the planner had seen
    repeats: int  # trainings, each with a seed of its own
    attacker_steps: int  # of each trained attacker, the choice of network and rate included
    knowledge: str  # what the strongest attacker had
    attacks: tuple[Attacked, ...] = ()  # of every attacker in every repeat
    stronger: tuple[str, ...] = ()  # names of those that the characterisation did not have
    difference_db: float | None = None
    earlier_releases: int = 0  # of the same pictures, which attackers hold as well
    channels_held: int = 0  # by attackers, in all

    @property
    def verdict(self) -> str:
        """The worst of its findings' verdicts."""
        found = {finding.verdict for finding in self.findings}
        return next((worst for worst in (BROKEN, INCONCLUSIVE) if worst in found), KEPT)

    def write(self, path: Path) -> None:
        """Writes JSON, whole and for the user alone; it holds none of the plan's secrets."""
        content = {**dataclasses.asdict(self), "verdict": self.verdict}
        for entry, finding in zip(content["findings"], self.findings, strict=True):
            entry["verdict"] = finding.verdict
            if math.isnan(finding.found):  # balanced accuracy, where no label differs
                entry["found"] = None
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n", private=True)
