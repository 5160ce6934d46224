"""How well a private attribute is told from what is released under a mechanism.

Attackers of class `pairs`, who know the attribute of their own pictures: the linear probe and the
network of `attacks.inference.attributes`, from one release of each picture.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax import Schedule
from privynet_jax.attacks.inference.attributes import (
    PARTS,
    count_of,
    learn,
    learn_probe,
    share_right,
)
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.mechanisms.scenes import ReleasedScene
from privynet_jax.results.accuracies import accuracies, balanced_mean_of
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.statistics import bootstrap
from privynet_jax.training.models.networks import network_for

PROBE, NETWORK = "linear probe", "network"
# Of the network's training: apart from the streams of a cell's tasks and of its release.
_STREAM = 2**31 - 2
_WIDTH = 64


def attribute_told(
    scenes: Sequence[ReleasedScene],
    cells: Sequence[Cell],
    values: Mapping[str, np.ndarray],
    schedule: Schedule,
    seed: int,
) -> list[dict[str, np.ndarray]]:
    """Returns attacker -> who is right about which test picture, of each scene; float64 [N].

    Values are of auxiliary and of test pictures, int, as `attributes.attribute_values` gives them.
    """
    found = []
    for scene, cell in zip(scenes, cells, strict=True):
        own, asked = (Labelled(_first_copies(scene, part), values[part]) for part in PARTS)
        count = count_of(values)
        network = network_for(own.representations.shape[1:], count, _WIDTH)
        key = jax.random.fold_in(training_key(cell, seed), _STREAM)
        answering = {
            PROBE: learn_probe(own, count),
            NETWORK: learn(own, network, schedule, key, repeats=1),
        }
        found.append({name: share_right(each, asked) for name, each in answering.items()})
    return found


def told_summary(
    told: Sequence[Mapping[str, np.ndarray]], values: Mapping[str, np.ndarray], sources: np.ndarray
) -> dict[str, Any]:
    """Returns balanced accuracy of each draw's better attacker, and its interval over sources."""
    labels = values["test"]
    scores = [{n: accuracies(x, labels)["balanced_accuracy"] for n, x in t.items()} for t in told]
    best = [max(score, key=score.get) for score in scores]
    right = np.mean([own[name] for own, name in zip(told, best, strict=True)], axis=0)
    statistic = functools.partial(balanced_mean_of, labels=labels)
    interval = bootstrap(right, statistic, sources)
    return {
        "attribute": [score[name] for score, name in zip(scores, best, strict=True)],
        "attribute_low": interval.low,
        "attribute_high": interval.high,
        "attribute_attacker": "/".join(sorted(set(best))),
    }


def _first_copies(scene: ReleasedScene, part: str) -> np.ndarray:
    """float32 [N, h, w, D], in memory, since what a release makes is made anew when it is read."""
    stored = scene.stored(part)
    return np.float32(stored[:: scene.release.copies_of(part)])
