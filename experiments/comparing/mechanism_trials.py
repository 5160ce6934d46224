"""What a mechanism is worth: a cloud NN and attackers that are all trained on what is released.

The cloud NN of `compare_mechanisms` learns from the one release of the target images; attackers,
who know the mechanism with its parameters, from what they have of their own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.comparing.ground import Ground
from experiments.comparing.mechanism_tables import CLASSES, OF_CLASS, Row
from privynet_jax import Protocol, measure
from privynet_jax.attacks.base import NETWORK, Attack
from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.backbone.topology import local_cost
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.mechanisms.scenes import (
    ReleasedScene,
    averaged,
    picture_scene,
    released_scene,
)
from privynet_jax.results.accuracies import accuracies, of_images
from privynet_jax.results.cells import Cell, Measurement, release_key
from privynet_jax.results.statistics import bootstrap, mean_of, summarise


def scenes_under(
    ground: Ground, cells: Sequence[Cell], mechanism: Mechanism, copies: int, seed: int
) -> list[ReleasedScene]:
    """Returns what is released of cells, all of one layer and depth, or of pictures.

    The attacker has so many copies of its images, each released anew; the seed is of training, and
    of the releases' randomness.
    """
    scenes = []
    for cell in cells:
        clean = (
            picture_scene(ground.parts)
            if mechanism.releases_pictures
            else ground.scene(cell.topology)
        )
        scenes.append(released_scene(clean, mechanism, release_key(cell, seed), copies))
    return scenes


def measured_by_all(
    scenes: Sequence[ReleasedScene],
    cells: Sequence[Cell],
    row: Row,
    protocol: Protocol,
    strong: InverseNetwork,
    seed: int,
    repeats: int,
) -> list[Measurement]:
    """Returns a measurement per cell of a row, of its scene, by all attackers that may attack it.

    Those of the protocol, and the mechanism's own, who end with the last network among the former
    or with the strong one; where releases are random, also of the mean of so many.
    """
    mechanism = row.mechanism
    if protocol.cloud is not None:
        size = protocol.cloud.image_size
        own = mechanism.cloud_nn(scenes[0].parts.num_answers, size)
        cloud = own or protocol.cloud
        protocol = dataclasses.replace(protocol, cloud=cloud, hardness=mechanism.hardness)
    general = [a for a in protocol.attacks if _is_of_use(a, row)]
    networks = [a for a in general if isinstance(a, InverseNetwork)]
    adapted = mechanism.adapted(networks[-1] if networks else strong)
    once = dataclasses.replace(protocol, attacks=[*general, *adapted])
    found = measure(cells, scenes, once, seed)
    if not mechanism.is_random or repeats == 1:
        return found
    # Whoever needs no pairs reckons with the noise of one release.
    several = [
        dataclasses.replace(a, name=f"{a.name}{of_mean_of(repeats)}")
        for a in (*networks, *adapted)
        if a.knowledge != NETWORK
    ]
    again = dataclasses.replace(protocol, cloud=None, schedule=None, attacks=several)
    of_mean = measure(cells, [averaged(scene, repeats) for scene in scenes], again, seed)
    return [
        dataclasses.replace(
            one,
            attacks={**one.attacks, **more.attacks},
            reports={**one.reports, **more.reports},
            seconds=one.seconds + more.seconds,
        )
        for one, more in zip(found, of_mean, strict=True)
    ]


def of_mean_of(repeats: int) -> str:
    """Returns how the names of attackers end who have the mean of so many releases."""
    return f", mean of {repeats}" if repeats > 1 else ""


def _is_of_use(attack: Attack, row: Row) -> bool:
    """Whether an attack that knows of no mechanism can be tried: public guesses noiseless ones."""
    # White boxes need what is released on average: turned by fresh angles that is nothing.
    if row.mechanism.releases_pictures or row.mechanism.secret_is_fresh:
        return attack.name == LINEAR or isinstance(attack, InverseNetwork)
    return attack.knowledge != NETWORK or row.mechanism == Plain()


def summary(
    row: Row,
    measured: Sequence[Measurement],
    sources: np.ndarray,
    attacked: np.ndarray,
    size: int = 32,
) -> dict[str, Any]:
    """Returns a row's numbers, lists with one per draw, of each class each draw's strongest.

    The ends of intervals are over sources, int [N], of test images, for the mean of all draws; of
    privacy loss, of the images that were attacked, int [n]. Pictures have sides of `size`.
    """
    right = [measurement.accuracy["test"] for measurement in measured]
    told = bootstrap(of_images(np.mean(right, axis=0)), mean_of, sources)
    accuracy = [accuracies(m.accuracy["test"], m.labels["test"]) for m in measured]
    topology = measured[0].cell.topology
    *place, depth = topology.representation_shape(size)
    values = int(np.prod(place)) * row.mechanism.depth(depth)
    own = 0 if row.mechanism.releases_pictures else local_cost(topology, size).macs
    return {
        **{name: [of[name] for of in accuracy] for name in ("accuracy", "balanced_accuracy")},
        "accuracy_low": told.low,
        "accuracy_high": told.high,
        "classes": {
            name: _of_class(measured, name, sources[attacked])
            for name in CLASSES
            if any(OF_CLASS[r.get("knowledge")] == name for r in measured[0].reports.values())
        },
        "epsilon": row.mechanism.epsilon(values),
        "local_macs": own + row.mechanism.macs((size, size, 3), topology),
        "released_values": values,
        "train_seconds": float(sum(m.seconds for m in measured)),
    }


def _of_class(measured: Sequence[Measurement], name: str, sources: np.ndarray) -> dict[str, Any]:
    """The strongest attackers of a class, by draw."""
    found = []
    for measurement in measured:
        mine = [a for a, r in measurement.reports.items() if OF_CLASS[r["knowledge"]] == name]
        best = max(mine, key=lambda a: measurement.attacks[a]["test"]["psnr_db"].mean())
        found.append((best, measurement.attacks[best]["test"], measurement.reports[best]))
    psnr = [summarise(attack["psnr_db"]) for _, attack, _ in found]
    both = bootstrap(np.mean([a["psnr_db"] for _, a, _ in found], axis=0), mean_of, sources)
    return {
        "psnr_db_mean": [loss.mean for loss in psnr],
        "psnr_db_low": both.low,
        "psnr_db_high": both.high,
        "psnr_db_p95": [loss.p95 for loss in psnr],
        "ssim_mean": [summarise(attack["ssim"]).mean for _, attack, _ in found],
        "attacker": "/".join(sorted({attacker for attacker, _, _ in found})),
        "falling_percent_per_doubling": float(
            max(report.get("falling_percent_per_doubling", 0.0) for _, _, report in found)
        ),
    }
