"""Whether a plan's promises hold: fresh attackers, trained longer, on other pictures.

Everything is measured anew for the plan's own topology: cloud NNs and attackers with other seeds
and more steps than the characterisation's, on parts that hold none of the planner's sample.
`auditing_attackers` has stronger attackers, `audits` what is found, and `experiments.audit` prints
the verdict.

    parts = without(load_parts("folder:pictures", ...), plan.sample)
    audit = audited(plan, parts, weights, Path("cache"), settings, execution, seed=1, repeats=2)
    audit.held  # every promise
"""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation import dedicated
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part, Parts
from privynet_jax.images.sample import digest_of
from privynet_jax.planning.audit_findings import Attacked, Audit, Finding
from privynet_jax.planning.plan import Plan, costs_of
from privynet_jax.platform.devices import Execution
from privynet_jax.results.cell_results import CONVERGED_PERCENT, PAIRS
from privynet_jax.results.cells import Cell
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.statistics import summarise
from privynet_jax.training.attackers import STRONG
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import LINEAR, Schedule


def without(parts: Parts, digests: Collection[str]) -> tuple[Parts, int]:
    """Returns parts without the pictures of these digests (`sample.digest_of`), and their number.

    Raises:
        UserError: nothing is left of a part.
    """
    seen, left_out = frozenset(digests), 0
    kept: dict[str, Part] = {}
    for name, part in parts.items():
        rows = [row for row, image in enumerate(part.images) if digest_of(image) not in seen]
        if not rows:
            raise UserError(
                f"the planner saw all pictures of the part {name} of {parts.name}; audit on more "
                "pictures, or plan with a smaller sample"
            )
        left_out += len(part) - len(rows)
        kept[name] = part if len(rows) == len(part) else Part(part.images[rows], part.labels[rows])
    if not left_out:
        return parts, 0
    # Caches are addressed by the fingerprint, so other images need another one.
    fingerprint = hashlib.sha256(" ".join([parts.fingerprint, *sorted(seen)]).encode()).hexdigest()
    return dataclasses.replace(parts, **kept, fingerprint=fingerprint), left_out


def settings_of_plan(plan: Plan, num_classes: int, factor: float) -> dedicated.Settings:
    """Returns the networks of the characterisation behind a plan, trained `factor` times as long.

    Raises:
        UserError: the plan does not say what they were.
    """
    try:
        settings = plan.settings
        cloud, trained = (
            Schedule(**{**settings[name], "steps": max(1, round(factor * settings[name]["steps"]))})
            for name in ("cloud", "attacker")
        )
        return dedicated.Settings(
            cloud=cloud_nn(num_classes, plan.image_size, settings["cloud_width"]),
            attacker=attacker(
                plan.image_size, settings["attacker_width"], settings["attacker_blocks"]
            ),
            cloud_schedule=cloud,
            attacker_schedule=trained,
            # A linear characterisation trained none.
            attackers=tuple(settings["attackers"]) or (STRONG,),
        )
    except (KeyError, TypeError):
        raise UserError(
            "the plan does not say how its characterisation trained; plan again"
        ) from None


def audited(
    plan: Plan,
    parts: Parts,
    weights: PretrainedWeights,
    cache_dir: Path | str,
    settings: dedicated.Settings,
    execution: Execution,
    *,
    seed: int,
    repeats: int,
    left_out: int = 0,
    latency_ms: float | None = None,
    stronger: Sequence[Attacked] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> Audit:
    """Trains and attacks the plan's topology anew.

    Args:
        plan: what was promised.
        parts: images and labels, none of which the planner saw; test images are attacked.
        weights: the pretrained network.
        cache_dir: for features.
        settings: networks and schedules; see `settings_of_plan`.
        execution: how to spread the repeats.
        seed: other than the characterisation's.
        repeats: trainings with different initial values and orders.
        left_out: pictures that were left out, for the record.
        latency_ms: measured now; needed where the plan limits it, else it may be None.
        stronger: what other attackers found on the same topology and parts; they count alike.
        progress: told about finished trainings; one repeat counts 1.

    Raises:
        UserError: training diverged.
    """
    if plan.limits.latency_ms is not None and latency_ms is None:
        raise ValueError("Expected a measured latency, which the plan limits")
    topology = plan.topology
    channels = tuple(sorted(topology.channels))
    features = load_features(weights, parts, {topology.num_layers: channels}, cache_dir)
    cells = [Cell(topology, draw) for draw in range(repeats)]
    measured = list(
        dedicated.characterise(
            cells,
            cells,
            cells,
            features,
            parts,
            settings,
            execution,
            seed=seed,
            progress=progress,
        )
    )
    attacks = (*_attacks(measured, settings.attacker_schedule.steps), *stronger)
    return Audit(
        findings=_findings(plan, measured, attacks, latency_ms),
        data=parts.name,
        images={name: len(part) for name, part in parts.items()},
        left_out=left_out,
        repeats=repeats,
        attacker_steps=settings.attacker_schedule.steps,
        knowledge=_strongest(attacks, "psnr_db", plan.limits.statistic).knowledge,
        attacks=attacks,
        stronger=tuple(dict.fromkeys(attack.attacker for attack in stronger)),
    )


def _attacks(measured: Sequence[Measurement], steps: int) -> list[Attacked]:
    """What the grid's attackers found, repeat by repeat."""
    return [
        Attacked(
            attacker=name,
            knowledge=PAIRS,
            repeat=measurement.cell.draw,
            steps=0 if name == LINEAR else steps,
            images=len(by_part["test"]["psnr_db"]),
            psnr_db=summarise(by_part["test"]["psnr_db"]),
            ssim=summarise(by_part["test"]["ssim"]),
            # NumPy's own truth values cannot be written as JSON.
            converged=bool(measurement.attackers_falling_percent[name] <= CONVERGED_PERCENT),
        )
        for measurement in measured
        for name, by_part in measurement.attacks.items()
    ]


def _findings(
    plan: Plan,
    measured: Sequence[Measurement],
    attacks: Sequence[Attacked],
    latency_ms: float | None,
) -> tuple[Finding, ...]:
    """What was found of every limit, and of accuracy."""
    statistic = plan.limits.statistic
    by = {metric: _strongest(attacks, metric, statistic) for metric in ("psnr_db", "ssim")}
    found = {metric: getattr(getattr(attack, metric), statistic) for metric, attack in by.items()}
    found |= costs_of(plan.topology, plan.image_size)
    if latency_ms is not None:
        found["latency_ms"] = latency_ms
    limits = plan.limits.given()
    expected = {
        "psnr_db": plan.expected.psnr_db.value,
        "ssim": plan.expected.ssim.value,
        "latency_ms": plan.latency_ms,
    }
    accuracy = np.mean([summarise(each.accuracy["test"]).mean for each in measured])
    return (
        *(
            Finding(name, limits.get(name), expected.get(name), float(x), *_whose(by.get(name)))
            for name, x in found.items()
        ),
        Finding("accuracy", None, plan.expected.accuracy.value, float(accuracy)),
    )


def _strongest(attacks: Sequence[Attacked], metric: str, statistic: str) -> Attacked:
    return max(attacks, key=lambda attack: getattr(getattr(attack, metric), statistic))


def _whose(attack: Attacked | None) -> tuple[str, int] | tuple[()]:
    return (attack.attacker, attack.images) if attack else ()
