"""What a page tells of one setting once it is chosen: what was measured, by whom, and its cost.

All of it is text of tests on test images; what planning rests on, of validation images, is in
`deciding`.
"""

from collections.abc import Sequence
from typing import Any

from experiments.reporting import tradeoff_chart
from experiments.reporting.tables import ranged
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.summaries import DrawSummary


def settings(summaries: Sequence[DrawSummary]) -> list[dict[str, Any]]:
    """Returns what the page's script knows of every setting, to be written as JSON."""
    return [
        {
            **tradeoff_chart.place(summary),
            "title": _title(summary),
            "accuracy": tradeoff_chart.ends("accuracy", summary.accuracy, 100),
            "losses": tradeoff_chart.losses(summary),
            "facts": _facts(summary),
        }
        for summary in summaries
    ]


def attackers(results: Sequence[CellResult]) -> dict[str, str]:
    """Returns attacker -> what it knows, of all that attacked a cell."""
    return {a.attacker: a.knowledge for result in results for a in result.attacks}


def _title(summary: DrawSummary) -> str:
    first = summary.cells[0]
    return f"{first.num_layers} layers ({first.layer}), {first.depth} channels, {first.selection}"


def _facts(summary: DrawSummary) -> list[tuple[str, str]]:
    cells, cost = summary.cells, summary.cells[0].cost
    strongest = sorted({(c.strongest.attacker, c.strongest.knowledge) for c in cells})
    facts = [
        ("Draws of channels", str(len(cells))),
        ("Accuracy", f"{ranged(summary.accuracy, 100)} %"),
        ("Balanced over classes", f"{ranged(summary.balanced_accuracy, 100)} %"),
        ("Mean PSNR of the strongest attacker", f"{ranged(summary.psnr_db)} dB"),
        ("Best rebuilt image", f"{max(c.row()['psnr_db_max'] for c in cells):.1f} dB"),
        ("Mean SSIM", f"{summary.ssim.mean:.2f}"),
        ("Strongest attacker", "; ".join(f"{name}, knows {what}" for name, what in strongest)),
        ("Local computation", f"{cost['local_macs'] / 1e6:,.1f} million MACs per image"),
        ("Local parameters", f"{cost['local_param_bytes'] / 2**20:,.2f} MiB"),
        ("Released", f"{cost['release_bytes'] / 2**10:,.1f} KiB per image"),
    ]
    if limit := summary.psnr_db_limit:
        facts.insert(4, ("With ten times the training", f"{ranged(limit)} dB"))
    return facts
