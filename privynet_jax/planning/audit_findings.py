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

    Attributes:
        what: a limit's name of `plan.Limits`, "accuracy" or "balanced_accuracy".
        limit: the limit; None where there is only an expectation.
        expected: what the plan expected; None where it was counted, not measured.
        found: the worst over attackers and repeats, or for accuracy the mean over repeats.
        attacker: of privacy loss, whose it is.
        images: of privacy loss, on how many test images it was found: not all attackers are scored
            on all of them, and percentiles of fewer say less.
    """

    what: str
    limit: float | None
    expected: float | None
    found: float
    attacker: str | None = None
    images: int | None = None

    @property
    def held(self) -> bool:
        """Whether the limit was kept; an expectation alone breaks no promise."""
        return self.limit is None or self.found <= self.limit


@dataclasses.dataclass(frozen=True)
class Attacked:
    """How well one attacker rebuilt test images in one repeat.

    Attributes:
        attacker: its name.
        knowledge: what it has besides the representations under attack.
        repeat: which, from 0.
        steps: that its network was trained, or an image was optimised; 0 without either.
        images: test images that it was scored on.
        psnr_db: over these, peak 1.0.
        ssim: likewise.
        converged: whether more of it would gain little, as the attacker reports of itself.
    """

    attacker: str
    knowledge: str
    repeat: int
    steps: int
    images: int
    psnr_db: Distribution
    ssim: Distribution
    converged: bool

    def reached(self, metric: str, statistic: str) -> float:
        """Returns a statistic, one of `plan.STATISTICS`, of "psnr_db" or "ssim"."""
        return getattr(getattr(self, metric), statistic)


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        findings: in the order of `plan.LIMITS`, accuracies last.
        data: name of the data set.
        images: part -> how many were used.
        left_out: pictures that the planner had seen.
        repeats: trainings, each with a seed of its own.
        attacker_steps: of each trained attacker, the choice of network and rate included.
        knowledge: what the strongest attacker had.
        attacks: of every attacker in every repeat.
        stronger: names of the attackers among them that the characterisation did not have.
        difference_db: by how much the PSNR that the characterisation's own attackers reached here
            differs from what the plan expected; None where not all of them attacked.
    """

    findings: tuple[Finding, ...]
    data: str
    images: Mapping[str, int]
    left_out: int
    repeats: int
    attacker_steps: int
    knowledge: str
    attacks: tuple[Attacked, ...] = ()
    stronger: tuple[str, ...] = ()
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
