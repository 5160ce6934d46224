"""Whether a plan's promises hold: fresh attackers, trained longer, on other pictures.

Everything is measured anew for the plan's own topology: cloud NNs and attackers with another seed
and more steps than the characterisation's, on parts that hold none of the planner's sample.
`findings` has what comes of it, and `experiments.audit` prints the verdict.

    settings = AuditSettings("cache", seed=1, attackers=("strong", "white box"))
    audit = audit_plan(plan, load_parts("folder:pictures", seed=1, ...), weights, settings)
    audit.verdict  # whether every promise is kept, as far as this can tell
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from privynet_jax.attacks.base import check_count
from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.registry import check_attackers
from privynet_jax.attacks.scenario import Scenario, make_scenario
from privynet_jax.auditing.findings import LEAST_PAIRS, Attacked, Audit, Finding
from privynet_jax.auditing.fresh_attackers import (
    longer_config,
    private_cache,
    scaled_as_released,
)
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import protocol_of, under_mechanism
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.characterisation.modes import check_guessing
from privynet_jax.errors import UserError
from privynet_jax.images.partition import detail, evenly_spread
from privynet_jax.images.parts import Part, Parts
from privynet_jax.images.sample import drop_seen_pictures
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.mechanisms.words import planned_mechanism
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.lengths import TRAINING, check_training
from privynet_jax.planning.plan import EPSILON, Plan, costs_of
from privynet_jax.results.accuracies import accuracies
from privynet_jax.results.cells import Cell, Measurement
from privynet_jax.results.latencies import Latencies
from privynet_jax.results.statistics import OF_DISTRIBUTIONS, Interval, bootstrap, summarise
from privynet_jax.training.session import current_session, session

_METRICS = ("psnr_db", "ssim")


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """How an audit is done.

    Attributes:
        cache_dir: where features are kept meanwhile, in a folder that nobody else may enter.
        seed: of everything random; other than the characterisation's.
        repeats: trainings of every network, with different initial values and orders; each takes
            as long again, most of all where attackers optimise images.
        attackers: names of the `attacks.registry`; none: the characterisation's own, and the one
            that the plan was measured by. The closed form attacks in any case.
        training: times the characterisation's steps that networks are trained, attackers as
            `lengths.attackers_schedule` says.
        attacked_images: test images, `partition.evenly_spread`, that attackers are scored on which
            optimise each image for itself, about a second each on two CPU cores; 0 means all.
        released: plans under which the same pictures were released before: attackers hold those
            releases as well, and with them the union of all channels.
        latencies: what a device measured, in place of measuring on this machine.

    Raises:
        UserError: nobody knows such an attacker, or a number is out of its range.
    """

    cache_dir: os.PathLike[str] | str
    seed: int
    repeats: int = 1
    attackers: tuple[str, ...] = ()
    training: float = TRAINING
    attacked_images: int = 64
    released: tuple[Plan, ...] = ()
    latencies: Latencies | None = None

    def __post_init__(self) -> None:
        if self.attackers:
            check_attackers(self.attackers)
        check_training(self.training)
        if self.repeats < 1 or self.attacked_images < 0:
            raise UserError(
                f"an audit with repeats={self.repeats} and attacked_images={self.attacked_images}; "
                "allowed are 1 or more repeats and 0 or more images; leave them out for the usual "
                "ones"
            )


def audit_plan(
    plan: Plan, parts: Parts, weights: PretrainedWeights, settings: AuditSettings
) -> Audit:
    """Trains and attacks the plan's topology anew, all repeats side by side.

    Images of the parts that the planner saw are left out; the weights are the pretrained network's,
    and settings say how it is done. The session is told about progress in repeats.

    Raises:
        UserError: the plan does not say how its characterisation trained, is one for other weights
            or has seen all pictures of a part; the seed is the characterisation's; training
            diverged; an earlier release is of another layer, network or size of images.
    """
    plan.check_weights(weights.fingerprint, weights.source)
    held = _held(plan, settings.released)
    config = longer_config(plan, settings.seed, settings.training, settings.attackers)
    check_guessing(config.of_devices, config.chosen_attackers)
    unseen, left_out = drop_seen_pictures(parts, plan.sample)
    test = unseen.test
    few = evenly_spread(test.labels, detail(test.images), settings.attacked_images or None)
    protocol = dataclasses.replace(protocol_of(config, unseen), optimised={"test": few})
    for attack in protocol.attacks:  # before features are extracted
        check_count(attack.name, len(unseen.auxiliary), getattr(attack, "least_pairs", 1))
    latency = _measured_latency(plan, settings.latencies)
    with private_cache(settings.cache_dir) as cache:
        scene = make_scenario(weights, unseen, held, cache, dtype=config.feature_dtype)
        if plan.mechanism != NONE:  # noise is as strong as the plan's scales make it
            scene = dataclasses.replace(scene, features=scaled_as_released(scene.features, plan))
        measurements = _measured(scene, plan, protocol, settings, config)
    statistic = plan.limits.statistic
    attacks = tuple(
        attacked
        for each in measurements
        for attacked in _attacked(each, protocol, unseen.test, statistic)
    )
    names = dict.fromkeys(attacked.attacker for attacked in attacks)
    own = {LINEAR, *plan.settings["attackers"]}
    # Like is compared with like: that other attackers reach more is not the pictures' doing.
    alike = [attacked for attacked in attacks if attacked.attacker in own]
    reached_db = _strongest(alike, "psnr_db", statistic).reached("psnr_db", statistic)
    return Audit(
        findings=_findings(plan, measurements, attacks, len(unseen.auxiliary), latency),
        data=parts.name,
        images={name: len(part) for name, part in unseen.items()},
        left_out=left_out,
        repeats=settings.repeats,
        attacker_steps=config.attacker.steps,
        knowledge=_strongest(attacks, "psnr_db", statistic).knowledge,
        attacks=attacks,
        stronger=tuple(name for name in names if name not in own),
        difference_db=reached_db - plan.expected.psnr_db.value
        if own <= names.keys() and held == plan.topology
        else None,
        earlier_releases=len(settings.released),
        channels_held=held.depth,
    )


def _held(plan: Plan, released: Sequence[Plan]) -> Topology:
    """What attackers see of a picture that is released under all of these plans."""
    own = plan.topology
    for other in released:
        there = other.topology
        if {plan.mechanism, other.mechanism} != {NONE}:
            raise UserError(
                f"the released plan {other.id[:8]} has the mechanism {other.mechanism}, the plan "
                f"{plan.mechanism}; allowed is none for both, since attackers who hold several "
                "releases with noise are not tried; audit each plan for itself"
            )
        if (
            (there.backbone, there.num_layers) != (own.backbone, own.num_layers)
            or other.image_size != plan.image_size
            or other.weights_fingerprint != plan.weights_fingerprint
        ):
            raise UserError(
                f"the released plan {other.id[:8]} has {there.num_layers} layers of "
                f"{there.backbone} with weights {other.weights_fingerprint[:8]} at "
                f"{other.image_size} pixels, the plan {own.num_layers} of {own.backbone} with "
                f"{plan.weights_fingerprint[:8]} at {plan.image_size}; allowed are equal ones, "
                "since attackers who hold two layers are not tried; audit each plan for itself"
            )
    channels = dict.fromkeys(own.channels)
    for other in released:
        channels |= dict.fromkeys(other.topology.channels)
    return Topology(own.num_layers, tuple(channels), own.backbone)


def _measured(
    scene: Scenario, plan: Plan, protocol: Protocol, settings: AuditSettings, config: Config
) -> list[Measurement]:
    """The cloud NN has the plan's channels alone, attackers all that the scene's topology has."""
    repeats, seed = range(settings.repeats), settings.seed

    def of(scene: Scenario, protocol: Protocol) -> list[Measurement]:
        cells = [Cell(scene.topology, repeat) for repeat in repeats]
        scenes = [under_mechanism(scene, config, cell, seed) for cell in cells]
        return measure(cells, scenes, protocol, seed)

    if scene.topology == plan.topology:
        return of(scene, protocol)
    released = dataclasses.replace(scene, topology=plan.topology)
    progress = current_session().progress
    with session(progress=lambda done: progress(done / 2)):
        of_cloud = of(released, dataclasses.replace(protocol, attacks=()))
        attacked = of(scene, dataclasses.replace(protocol, cloud=None, schedule=None))
    return [
        dataclasses.replace(each, accuracy=own.accuracy)
        for each, own in zip(attacked, of_cloud, strict=True)
    ]


def _measured_latency(plan: Plan, latencies: Latencies | None) -> Finding | None:
    """Now and here, where the plan limits it, or on a device that has measured."""
    limit = plan.limits.latency_ms
    if limit is None and latencies is None:
        return None
    meter = Meter(latencies)
    found, doubts = meter.measure(plan.topology, plan.image_size, plan.mechanism), ()
    if limit is not None and meter.where != plan.latency_on:
        told = f"the plan's latency is of {plan.latency_on}, and this one of {meter.where}"
        doubts = (f"{told}; give --latency",)
    return Finding("latency_ms", limit, plan.latency_ms, found, doubts=doubts)


def _attacked(
    measurement: Measurement, protocol: Protocol, test: Part, statistic: str
) -> list[Attacked]:
    """What the attackers of one repeat found."""
    found = []
    for attack in protocol.attacks:
        values, report = measurement.attacks[attack.name]["test"], measurement.reports[attack.name]
        rows, gain = protocol.rows(attack)["test"], report.get("gain_db")
        sources = test.clusters(slice(None) if rows is None else rows)
        of = OF_DISTRIBUTIONS[statistic]
        ends = {metric: bootstrap(values[metric], of, sources).high for metric in _METRICS}
        found.append(
            Attacked(
                attacker=attack.name,
                knowledge=str(report["knowledge"]),
                repeat=measurement.cell.draw,
                steps=int(report.get("steps", 0)),
                images=len(sources),
                psnr_db=summarise(values["psnr_db"]),
                ssim=summarise(values["ssim"]),
                # NumPy's own truth values cannot be written as JSON.
                converged=bool(report["converged"]),
                sources=len(np.unique(sources)),
                # JSON has no NaN.
                upper={m: None if math.isnan(end) else end for m, end in ends.items()},
                gain_db=Interval(*gain) if gain else None,
            )
        )
    return found


def _findings(
    plan: Plan,
    measurements: Sequence[Measurement],
    attacks: Sequence[Attacked],
    pairs: int,
    latency: Finding | None,
) -> tuple[Finding, ...]:
    """What was found of every limit, and of the accuracies."""
    limits, statistic = plan.limits, plan.limits.statistic
    findings = []
    for metric in _METRICS:
        worst, expected = _strongest(attacks, metric, statistic), getattr(plan.expected, metric)
        reached, limit = worst.reached(metric, statistic), getattr(limits, metric)
        doubts: list[str] = []
        if limit is not None and reached <= limit:
            # Of two repeats of an attacker one may say the same.
            doubts = [why for each in attacks for why in each.doubts(metric, statistic, limit)]
            if pairs < LEAST_PAIRS:
                doubts.append(f"attackers had {pairs} pairs; {LEAST_PAIRS} are needed")
        whose = worst.attacker, worst.images, tuple(dict.fromkeys(doubts))
        findings.append(Finding(metric, limit, expected.value, reached, *whose))
    values = math.prod(plan.topology.representation_shape(plan.image_size))
    epsilon = planned_mechanism(plan.mechanism).epsilon(values)
    known = {EPSILON: epsilon} if epsilon < math.inf else {}
    for name, cost in (costs_of(plan.topology, plan.image_size) | known).items():
        expected = plan.epsilon if name == EPSILON else None
        findings.append(Finding(name, getattr(limits, name), expected, cost))
    findings += [] if latency is None else [latency]
    right = [accuracies(each.accuracy["test"], each.labels["test"]) for each in measurements]
    for name in ("accuracy", "balanced_accuracy", "commonest_class_share"):
        found = float(np.mean([each[name] for each in right]))
        expected = getattr(plan.expected, name)
        expected = expected.value if isinstance(expected, Interval) else expected
        findings.append(Finding(name, None, expected, found))
    return tuple(findings)


def _strongest(attacks: Sequence[Attacked], metric: str, statistic: str) -> Attacked:
    return max(attacks, key=lambda attack: attack.reached(metric, statistic))
