"""What an audit found: every limit, every attacker, and whether the promises held; its JSON file.

`audit` measures. No JAX here.

    Finding("psnr_db", limit=20.0, expected=18.0, found=21.5).held  # False
    audit.write(Path("audit.json"))
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from privynet_jax.platform.files import write_atomically
from privynet_jax.results.statistics import Distribution


@dataclasses.dataclass(frozen=True)
class Finding:
    """One limit or expectation, and what was found.

    Of privacy loss, it says whose it is, and on how many test images it was found: not all
    attackers are scored on all of them, and percentiles of fewer say less.
    """

    what: str  # a limit's name of `plan.Limits`, or one of `statistics.accuracies`
    limit: float | None  # None where there is only an expectation
    expected: float | None  # None where it was counted, not measured
    found: float  # the worst over attackers and repeats, or for accuracies the mean over repeats
    attacker: str | None = None
    images: int | None = None

    @property
    def held(self) -> bool:
        """Whether the limit was kept; an expectation alone breaks no promise."""
        return self.limit is None or self.found <= self.limit


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

    def reached(self, metric: str, statistic: str) -> float:
        """Returns a statistic, one of `plan.STATISTICS`, of "psnr_db" or "ssim"."""
        return getattr(getattr(self, metric), statistic)


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    `difference_db` is by how much the PSNR that the characterisation's own attackers reached here
    differs from what the plan expected; None where not all of them attacked.
    """

    findings: tuple[Finding, ...]  # in the order of `plan.LIMITS`, accuracies last
    data: str  # name of the data set
    images: Mapping[str, int]  # part -> how many were used
    left_out: int  # pictures that the planner had seen
    repeats: int  # trainings, each with a seed of its own
    attacker_steps: int  # of each trained attacker, the choice of network and rate included
    knowledge: str  # what the strongest attacker had
    attacks: tuple[Attacked, ...] = ()  # of every attacker in every repeat
    stronger: tuple[str, ...] = ()  # names of those that the characterisation did not have
    difference_db: float | None = None

    @property
    def held(self) -> bool:
        """Whether every promise did."""
        return all(finding.held for finding in self.findings)

    def write(self, path: Path) -> None:
        """Writes JSON, whole and for the user alone; it holds none of the plan's secrets."""
        content = {**dataclasses.asdict(self), "held": self.held}
        for entry, finding in zip(content["findings"], self.findings, strict=True):
            entry["held"] = finding.held
        write_atomically(path, json.dumps(content, indent=1) + "\n", private=True)
