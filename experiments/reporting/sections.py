"""What a report says in words: its headline, what was assumed, and what other commands left.

`experiments.report` and its template ask.
"""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting.pictures import of_file
from experiments.reporting.promises import data_name
from experiments.reporting.tables import of_csv, place
from privynet_jax.characterisation.scoring import ALL_CHANNELS
from privynet_jax.results.cell_results import PAIRS, CellResult
from privynet_jax.results.summaries import DrawSummary, Point, frontier, over_draws

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
        "What can be told of an image: from its representation, from a reconstruction, or from the "
        "cloud NN's answers.",
    ),
    "mechanisms": (
        "Mechanisms",
        "What devices do besides splitting, or in place of it, by class of attacker.",
    ),
    "several_cuts": (
        "Several cuts of one picture",
        "Attackers who have a picture's representations at several cuts, beside those who have one "
        "of them; gains in dB are beyond the best of these. In accuracy, one cloud NN that answers "
        "every cut beside each cut's own.",
    ),
    "selection": (
        "Ways of choosing channels",
        "Means over draws, ± half a 95 % confidence interval over draws, and in brackets one over "
        "the sources of the images; differences are to the baseline.",
    ),
    "selection_limits": (
        "Ways of choosing channels, at equal limits",
        "Accuracy that each selection reaches within a limit of privacy loss, and where; chosen on "
        "validation images, reported on test images.",
    ),
}
# Of these, what the table of all settings has is enough for most: they are folded below it.
OF_RISK = ("risk", "risk_classes")
_KNOWN = {
    PAIRS: "pairs of auxiliary images and their representations; neither the network nor which of "
    "its channels they are",
    ALL_CHANNELS: "the same pairs, with channels that are not released as well",
    "pairs from another data set": "pairs as well, but of another kind of images",
    "network but not channels": "the network and the number of layers, but not which channels are "
    "released, and no pairs",
    "everything": "network, layers, released channels and pairs: all but the images",
}


def best_settings(results: Sequence[CellResult]) -> list[DrawSummary]:
    """Returns the settings that no other beats at both, with the least privacy loss first.

    Validation images decide, because the best of many on test images is better there by luck too.
    """
    points = {}
    for summary in over_draws(results):
        rows = [cell.row() for cell in summary.cells]
        loss, accuracy = (
            float(np.mean([row[f"validation_{name}"] for row in rows]))
            for name in ("psnr_db_mean", "balanced_accuracy")
        )
        points.setdefault(Point(loss, accuracy), summary)
    return [points[point] for point in frontier(list(points))]


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings of a work directory, in words and flat."""
    facts = {}
    for name, value in config.items():
        if isinstance(value, dict):
            facts |= {f"{name} {key}": str(v) for key, v in value.items()} or {name: "all"}
        elif isinstance(value, list):
            facts[name] = ", ".join(map(str, value))
        else:
            facts[name] = data_name(value) if name == "dataset" else str(value)
    return {name.replace("_", " "): text for name, text in facts.items()}


def knowledge(results: Sequence[CellResult]) -> dict[str, str]:
    """Returns attacker -> what it was given besides the representations under attack."""
    attacks = [attack for result in results for attack in result.attacks]
    return {attack.attacker: _KNOWN.get(attack.knowledge, attack.knowledge) for attack in attacks}


def versions() -> dict[str, str]:
    """Returns what the report was written with."""
    packages = ("privynet_jax", "jax", "flax", "numpy")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {**found, "Python": platform.python_version()}


def further(workdir: Path) -> list[dict[str, Any]]:
    """Returns title, table and picture of what other commands left in a work directory."""
    sections = []
    for stem, (title, caption) in _FURTHER.items():
        path, alt = workdir / f"{stem}.csv", f"{title}: the numbers of the table below it, drawn."
        if path.exists():
            picture = path.with_suffix(".png")
            shown = of_file(picture, alt) if picture.exists() else None
            table = of_csv(path, caption)
            sections.append({"stem": stem, "title": title, "table": table, "picture": shown})
    return sections


def titled(summary: DrawSummary) -> str:
    """Returns a setting's name in running text."""
    layers, depth, selection = place(summary)
    return f"{layers}, {depth} channels, {selection}"
