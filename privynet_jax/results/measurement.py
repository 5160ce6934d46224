"""Everything measured about one cell, image by image, before it is summarised.

`characterisation` makes these, whatever the mode; `cell_results` keeps what a row says of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from privynet_jax.results.cells import Cell


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured about one cell, per image, before it is summarised.

    Attributes:
        cell: which.
        accuracy: part name ("validation", "test") -> float32 [N], 1 where the cloud NN was right.
        attacks: attacker -> part name -> metric ("psnr_db", "ssim") -> float32 [N].
        examples: attacker -> uint8 [K, H, W, 3], its estimates of the K test images asked for.
        reports: attacker -> what it says of itself: "knowledge", whether it had "converged", and so
            on (`attacks.base.Report`).
        seconds: wall-clock time of the group, divided by its cells.
    """

    cell: Cell
    accuracy: Mapping[str, np.ndarray]
    attacks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    examples: Mapping[str, np.ndarray]
    seconds: float
    reports: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def training_columns(self, attacker: str) -> dict[str, Any]:
        """Returns what tables say of an attacker's training; closed forms are through with it."""
        report = self.reports[attacker]
        return {
            "network": report.get("capacity", ""),
            "steps": report.get("steps", 0),
            "learning_rate": f"{report['learning_rate']:g}" if "learning_rate" in report else "",
            "falling_percent_per_doubling": float(report.get("falling_percent_per_doubling", 0.0)),
            "converged": bool(report["converged"]),
        }
