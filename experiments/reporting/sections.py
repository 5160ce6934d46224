"""What a report says in words: its headline, what was assumed, a plan and its audit.

`experiments.report` hands over results, settings and files; its template sets what comes back.

    facts = settings(config)
    facts["attacker steps"]
"""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reporting.pictures import Picture, of_file
from experiments.reporting.tables import Table, of_csv, place, settings_table
from privynet_jax.backbone.topology import DIRECT
from privynet_jax.characterisation.scoring import ALL_CHANNELS
from privynet_jax.errors import UserError
from privynet_jax.images.parts import FOLDER_PREFIX
from privynet_jax.planning.plan import Plan
from privynet_jax.results.cell_results import PAIRS, CellResult
from privynet_jax.results.statistics import Interval
from privynet_jax.results.summaries import DrawSummary, over_draws

# What other commands may leave in a work directory: file -> title, what it is.
_FURTHER = {
    "strong_attacks": (
        "Stronger attackers",
        "Further attackers on the same representations. Where one of them does better than the "
        "attackers above, its privacy loss is the one that counts.",
    ),
    "attackers": (
        "Attackers at equal budgets",
        "Attackers on the same representations, the same pairs and the same time.",
    ),
    "knowledge": ("What an attacker knows", "How far more or less knowledge takes an attacker."),
    "risk": ("Risk per cell", "Statistics over single test images, per cell."),
    "risk_classes": ("Risk per class", "Privacy loss of the test images of each class."),
    "inference": (
        "Inference instead of reconstruction",
        "What can be told from representations without rebuilding the image.",
    ),
    "defences": (
        "Defences",
        "Representations changed before release; the attackers learnt from changed ones too.",
    ),
    "selection": (
        "Ways of choosing channels",
        "Means over draws, ± half a 95 % confidence interval; differences are to the baseline.",
    ),
    "selection_limits": (
        "Ways of choosing channels, at equal limits",
        "Accuracy that each selection reaches within a limit of privacy loss, with (layers, "
        "channels); chosen on validation images, reported on test images.",
    ),
}
_KNOWN = {
    PAIRS: "pairs of auxiliary images and their representations; neither the network nor which of "
    "its channels they are",
    ALL_CHANNELS: "the same pairs, with channels that are not released as well",
    "pairs from another data set": "pairs as well, but of another kind of images",
    "network but not channels": "the network and the number of layers, but not which channels are "
    "released, and no pairs",
    "everything": "network, layers, released channels and pairs: all but the images",
}
_LIMITS = {
    "psnr_db": ("privacy loss: PSNR, dB", 1),
    "ssim": ("privacy loss: SSIM", 1),
    "local_mmacs": ("local computation, million MACs", 1),
    "storage_mib": ("local storage, MiB", 1),
    "release_kib": ("release per image, KiB", 1),
    "latency_ms": ("latency, ms", 1),
    "accuracy": ("accuracy, %", 100),
}


def best_settings(results: Sequence[CellResult]) -> list[DrawSummary]:
    """Returns the settings that no other beats in accuracy and privacy loss at once.

    Validation images decide, because the best of many on test images is better there by luck too.
    They come with the least privacy loss first.
    """

    def numbers(summary: DrawSummary) -> tuple[float, float]:
        rows = [cell.row() for cell in summary.cells]
        accuracy, loss = (
            sum(row[column] for row in rows) / len(rows)
            for column in ("validation_accuracy", "validation_psnr_db_mean")
        )
        return loss, -accuracy

    chosen: list[DrawSummary] = []
    for summary in sorted(over_draws(results), key=numbers):
        if not chosen or numbers(summary)[1] < numbers(chosen[-1])[1]:
            chosen.append(summary)
    return chosen


def best_table(results: Sequence[CellResult]) -> Table:
    """Returns `best_settings` as a table."""
    return settings_table(
        "best",
        "Settings that no other setting beats in both numbers, from the most private to the most "
        "accurate: means over draws of channels, and their range. Chosen on validation images, "
        "reported on test images.",
        best_settings(results),
    )


def data_name(dataset: str) -> str:
    """Returns a data set's name; of a folder of pictures only the last part of its path."""
    if not dataset.startswith(FOLDER_PREFIX):
        return dataset
    return FOLDER_PREFIX + Path(dataset.removeprefix(FOLDER_PREFIX)).name


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings of a work directory, in words and flat."""
    facts = {}
    for name, value in config.items():
        title = name.replace("_", " ")
        if isinstance(value, dict) and name != "max_images":
            facts |= {f"{title} {key.replace('_', ' ')}": str(v) for key, v in value.items()}
        elif isinstance(value, dict):
            facts[title] = ", ".join(f"{key} {v}" for key, v in value.items()) or "all"
        elif isinstance(value, list):
            facts[title] = ", ".join(map(str, value))
        else:
            facts[title] = data_name(str(value)) if name == "dataset" else str(value)
    return facts


def knowledge(results: Sequence[CellResult]) -> dict[str, str]:
    """Returns attacker -> what it was given besides the representations under attack."""
    given = {}
    for result in results:
        for attack in result.attacks:
            given[attack.attacker] = _KNOWN.get(attack.knowledge, attack.knowledge)
    return given


def versions() -> dict[str, str]:
    """Returns what the report was written with."""
    packages = ("privynet_jax", "jax", "flax", "numpy")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {**found, "Python": platform.python_version()}


def further(workdir: Path) -> list[dict[str, Any]]:
    """Returns title, table and picture of what other commands left in a work directory.

    Raises:
        UserError: a file is damaged.
    """
    sections = []
    for stem, (title, caption) in _FURTHER.items():
        path = workdir / f"{stem}.csv"
        if not path.exists():
            continue
        picture: Picture | None = None
        if path.with_suffix(".png").exists():
            picture = of_file(
                path.with_suffix(".png"),
                f"{title}: the numbers of the table below it, drawn.",
            )
        sections.append({"title": title, "table": of_csv(path, caption), "picture": picture})
    return sections


def plan_table(plan: Plan) -> Table:
    """Returns what a plan expects and what limits it was made for. Its secrets stay out."""
    limits, cost = plan.limits.given(), plan.cost
    expected: dict[str, Interval] = {
        name: getattr(plan.expected, name) for name in ("accuracy", "psnr_db", "ssim")
    }
    rows = []
    for name, (title, factor) in _LIMITS.items():
        if name in expected:
            interval = expected[name]
            found = _digits(interval.value, factor)
            spread = f"{_digits(interval.low, factor)} to {_digits(interval.high, factor)}"
        elif name in cost:
            found, spread = _digits(cost[name], 1), ""
        else:
            continue
        limit = _digits(limits[name], factor) if name in limits else ""
        rows.append((title, found, spread, limit))
    over = "trainings" if plan.selection.method == DIRECT else "draws of channels"
    return Table(
        "plan",
        f"What the plan expects on test images. Privacy loss is the {plan.limits.statistic} over "
        "images.",
        ("", "expected", f"over {over}", "limit"),
        tuple(rows),
    )


def audit_table(path: Path) -> tuple[Table, bool]:
    """Returns what an audit found, and whether every limit was kept.

    Raises:
        UserError: the file is none that experiments.audit wrote.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_audited(finding) for finding in content["findings"])
        images = ", ".join(f"{count} {name}" for name, count in content["images"].items())
        caption = (
            f"Fresh attackers on {data_name(content['data'])} ({images} images; "
            f"{content['left_out']} left out that the planner had seen): {content['repeats']} "
            f"seeds, {content['attacker_steps']} steps each. {_stronger(content)} "
            "Privacy loss is the worst attacker's and seed's."
        )
        columns = ("", "found", "expected", "limit", "kept", "strongest attacker")
        return Table("audit", caption, columns, rows), bool(content["held"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is no audit; give the audit.json that experiments.audit wrote"
        ) from None


def _stronger(audit: Mapping[str, Any]) -> str:
    """Says which attackers beyond the characterisation's took part."""
    names = ", ".join(audit["stronger"])
    if not names:
        return "No stronger attackers than the characterisation's were tried."
    return f"Stronger attackers than the characterisation's took part: {names}."


def _audited(finding: Mapping[str, Any]) -> tuple[str, ...]:
    title, factor = _LIMITS[finding["what"]]
    numbers = (
        "" if finding[name] is None else _digits(finding[name], factor)
        for name in ("found", "expected", "limit")
    )
    kept = "" if finding["limit"] is None else ("yes" if finding["held"] else "BROKEN")
    attacker = finding["attacker"]
    whose = f"{attacker}, on {finding['images']} images" if attacker else ""
    return (title, *numbers, kept, whose)


def _digits(value: float, factor: float) -> str:
    return f"{factor * value:.3g}"


def titled(summary: DrawSummary) -> str:
    """Returns a setting's name in running text."""
    layers, depth, selection = place(summary)
    return f"{layers}, {depth} channels, {selection}"
