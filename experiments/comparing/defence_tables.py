"""The table of `compare_defences`: what its rows are, their gains, and which to read with care.

    table = as_table({Row(4, 16, Undefended()): measured, ...})
    print(as_text(table), convergence_note(table))

The command measures the rows, and `defence_plot` draws the table.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.defences.guarantees import DELTA
from privynet_jax.defences.mechanisms import Defence, Undefended
from privynet_jax.results.summaries import Point, best_accuracy
from privynet_jax.results.text_tables import aligned
from privynet_jax.training.convergence import CONVERGED_PERCENT

_METRICS = ("accuracy", "psnr_db_mean", "psnr_db_p95", "ssim_mean")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is measured together: draws of channels under one defence."""

    num_layers: int
    depth: int
    defence: Defence

    @property
    def title(self) -> str:
        """For people, and unique."""
        return f"layers {self.num_layers}, depth {self.depth}, {self.defence}"


def as_table(measured: Mapping[Row, Mapping[str, Any]]) -> list[dict[str, str | int | float]]:
    """Returns a line per row, with its gain over PrivyNet's own trade-off."""
    own = [
        Point(np.mean(values["psnr_db_mean"]), np.mean(values["accuracy"]))
        for row, values in measured.items()
        if isinstance(row.defence, Undefended)
    ]
    table = []
    for row, values in measured.items():
        means = {name: float(np.mean(values[name])) for name in _METRICS}
        loss, margin = means["psnr_db_mean"], float(np.ptp(values["psnr_db_mean"]) / 2)
        is_own = isinstance(row.defence, Undefended)
        # The own trade-off can be steep, so that a fraction of a dB decides: once more with the
        # worst draw's loss.
        gain, least = (
            _gain(means["accuracy"], None if is_own else best_accuracy(own, at))
            for at in (loss, loss + margin)
        )
        table.append(
            {
                "layers": row.num_layers,
                "depth": row.depth,
                "kind": _kind(row.defence),
                "defence": str(row.defence),
                "epsilon": values["epsilon"],
                "delta": DELTA,
                "draws": len(values["accuracy"]),
                **means,
                "accuracy_half_range": float(np.ptp(values["accuracy"]) / 2),
                "psnr_db_half_range": margin,
                "attacker": values["attacker"],
                "falling_percent_per_doubling": values["falling_percent_per_doubling"],
                "gain": gain,
                "gain_at_the_worst_draw_s_loss": least,
                "train_seconds": values["train_seconds"],
            }
        )
    return table


def _gain(accuracy: float, reference: float | None) -> float | str:
    return "" if reference is None else accuracy - reference


def _kind(defence: Defence) -> str:
    """Returns what defences of several strengths have in common: a line of the picture."""
    is_stochastic = getattr(defence, "stochastic", False)
    return f"{defence.name}, stochastic" if is_stochastic else defence.name


def as_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table for people to read."""
    lines = []
    for line in table:
        spread = 100 * line["accuracy_half_range"]
        lines.append(
            {
                "layers": line["layers"],
                "depth": line["depth"],
                "defence": line["defence"],
                "epsilon": "-" if np.isinf(line["epsilon"]) else f"{line['epsilon']:.3g}",
                "accuracy %": f"{100 * line['accuracy']:.1f} ±{spread:.1f}",
                "PSNR dB": f"{line['psnr_db_mean']:.1f} ±{line['psnr_db_half_range']:.1f}",
                "p95 dB": f"{line['psnr_db_p95']:.1f}",
                "SSIM": f"{line['ssim_mean']:.2f}",
                "attacker": line["attacker"],
                "falling %": f"{line['falling_percent_per_doubling']:.0f}{_flag(line)}",
                "gain": _points(line["gain"]),
                "worst": _points(line["gain_at_the_worst_draw_s_loss"]),
            }
        )
    return aligned(lines)


def convergence_note(table: Sequence[Mapping[str, Any]]) -> str:
    """Says in how many rows the privacy loss comes from an attacker who was still improving."""
    falling = [line["falling_percent_per_doubling"] for line in table if _flag(line)]
    if not falling:
        return f"The strongest attackers of all {len(table)} rows had converged."
    return (
        f"In {len(falling)} of {len(table)} rows, marked *, a draw's strongest attacker had not "
        f"converged (its error still fell by {min(falling):.0f} to {max(falling):.0f} % per "
        "doubling of its training): privacy loss there is a lower estimate, and more steps find "
        "more."
    )


def _flag(line: Mapping[str, Any]) -> str:
    return "*" if line["falling_percent_per_doubling"] > CONVERGED_PERCENT else ""


def _points(gain: float | str) -> str:
    return gain if isinstance(gain, str) else f"{100 * gain:+.1f}"
