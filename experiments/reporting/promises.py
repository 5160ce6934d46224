"""What a plan promises, and what its audit found, in words and tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.reporting.tables import Table
from privynet_jax import Plan, UserError
from privynet_jax.backbone.topology import DIRECT
from privynet_jax.images.folders import FOLDER_PREFIX
from privynet_jax.mechanisms.on_device import NONE

# Limit or expectation -> what it is called, and what a number is multiplied with.
_LIMITS = {
    "psnr_db": ("privacy loss: PSNR, dB", 1),
    "psnr_db_limit": ("PSNR after ten times the training, dB", 1),
    "ssim": ("privacy loss: SSIM", 1),
    "local_mmacs": ("local computation, million MACs", 1),
    "storage_mib": ("local storage, MiB", 1),
    "release_kib": ("release per image, KiB", 1),
    "latency_ms": ("latency, ms", 1),
    "epsilon": ("epsilon of one release", 1),
    "accuracy": ("accuracy, %", 100),
    "balanced_accuracy": ("balanced accuracy, %", 100),
    "commonest_class_share": ("always the commonest class, %", 100),
}


def plan_table(plan: Plan) -> Table:
    """Returns what a plan expects and what limits it was made for. Its secrets stay out."""
    limits, rows = plan.limits.given(), []
    for name, (title, factor) in _LIMITS.items():
        limit = _digits(limits.get(name), factor)
        if name in plan.cost:
            rows.append((title, _digits(plan.cost[name], 1), "", limit))
        elif name == "commonest_class_share":
            rows.append((title, _digits(plan.expected.commonest_class_share, factor), "", ""))
        elif interval := getattr(plan.expected, name, None):
            value, low, high = (
                _digits(end, factor) for end in (interval.value, interval.low, interval.high)
            )
            rows.append((title, value, f"{low} to {high}", limit))
    if found := plan.measured:
        on = f"by {found.attacker}, on {found.images} pictures"
        rows += [
            (
                f"{_LIMITS[m][0]}, before it was written",
                _digits(getattr(found, m), 1),
                on,
                _digits(limits.get(m), 1),
            )
            for m in ("psnr_db", "ssim")
        ]
    if plan.mechanism != NONE:
        rows.append(("mechanism", plan.mechanism, "", ""))
    over = "trainings" if plan.selection.method == DIRECT else "draws of channels"
    return Table(
        "plan",
        "What the plan expects, by validation images, and what its very channels gave away on the "
        f"sample. Privacy loss is the {plan.limits.statistic} over images.",
        ("", "expected", f"over {over}", "limit"),
        tuple(rows),
    )


def audit_table(path: Path) -> tuple[Table, str]:
    """Returns what an audit found, and its verdict."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(tuple(audited(finding).values()) for finding in content["findings"])
        images = ", ".join(f"{count} {name}" for name, count in content["images"].items())
        names = ", ".join(content["stronger"])
        stronger = (
            f"Stronger attackers than the characterisation's took part: {names}."
            if names
            else "No stronger attackers than the characterisation's were tried."
        )
        caption = (
            f"Fresh attackers on {data_name(content['data'])} ({images} images; "
            f"{content['left_out']} left out that the planner had seen), seeds: "
            f"{content['repeats']}, steps of each: {content['attacker_steps']}. {stronger} "
            "Privacy loss is the worst attacker's and seed's."
        )
        if earlier := content["earlier_releases"]:
            held = content["channels_held"]
            caption += f" Attackers hold {held} channels: of {earlier} earlier releases as well."
        if doubts := dict.fromkeys(why for f in content["findings"] for why in f["doubts"]):
            caption += f" Open is, because: {'; '.join(doubts)}."
        columns = ("", "found", "expected", "limit", "verdict", "strongest attacker")
        return Table("audit", caption, columns, rows), str(content["verdict"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is no audit of this version; give the audit.json that experiments.audit writes"
        ) from None


def audited(finding: Mapping[str, Any]) -> dict[str, str]:
    """Returns an audit's finding, the fields of `Finding` and its verdict, in words."""
    title, factor = _LIMITS[finding["what"]]
    numbers = {name: _digits(finding[name], factor) for name in ("found", "expected", "limit")}
    verdict = "" if finding["limit"] is None else finding["verdict"]
    attacker = finding["attacker"]
    whose = f"{attacker}, on {finding['images']} images" if attacker else ""
    return {"audited": title, **numbers, "verdict": verdict, "strongest attacker": whose}


def _digits(value: float | None, factor: float) -> str:
    return "" if value is None else f"{factor * value:.3g}"


def data_name(dataset: str) -> str:
    """Returns a data set's name; of a folder of pictures only the last part of its path."""
    if not dataset.startswith(FOLDER_PREFIX):
        return dataset
    return FOLDER_PREFIX + Path(dataset.removeprefix(FOLDER_PREFIX)).name
