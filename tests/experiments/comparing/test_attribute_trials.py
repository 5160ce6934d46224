"""An attribute is told where a release has it, and by chance where noise is all that is left."""

import jax
import numpy as np
import pytest
from support.handmade_layers import handmade_features
from support.noise import noise_parts

from experiments.comparing.attribute_trials import attribute_told, told_summary
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.topology import Topology
from privynet_jax.mechanisms.noises import GaussianNoise
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.results.cells import Cell
from privynet_jax.training.tasks import Schedule

TOPOLOGY = Topology(4, (0, 1, 2))
COUNTS = {"target": 4, "auxiliary": 120, "validation": 4, "test": 150}


def told_under(mechanism, copies):
    """Where a value of 0, 1 or 2 is how bright one channel is; the others are alike."""
    parts, rng, values, stored = noise_parts(COUNTS, 32), np.random.default_rng(0), {}, {}
    for name, part in parts.items():
        values[name] = rng.integers(0, 3, len(part))
        stored[name] = np.float32(rng.uniform(0, 1, (len(part), 16, 16, 3)))
        stored[name][..., 1] += values[name][:, None, None]
    clean = Scenario(TOPOLOGY, parts, handmade_features(4, range(3), stored))
    scene = released_scene(clean, mechanism, jax.random.key(0), copies)
    told = attribute_told([scene], [Cell(TOPOLOGY, 0)], values, Schedule(30, 32, 1e-2), 0)
    return told, values


def test_what_is_released_is_told():
    [told], values = told_under(GaussianNoise(1.0, 0.1), copies=3)
    # Of 150 pictures whose values lie 50 standard deviations of a mean over 256 positions apart.
    assert told["linear probe"].mean() > 0.95
    # After 30 steps far from chance: by more than 5 standard errors of 0.038.
    assert told["network"].mean() > 1 / 3 + 0.2
    found = told_summary([told], values, np.arange(COUNTS["test"]))
    assert found["attribute"][0] > 0.95
    assert found["attribute_low"] <= found["attribute"][0] <= found["attribute_high"]


def test_what_noise_covers_is_not():
    [told], _ = told_under(GaussianNoise(1e-3, 1.0), copies=1)
    # A third of 150 answers are right by chance, to within 4.5 standard errors of 0.038.
    assert told["linear probe"].mean() == pytest.approx(1 / 3, abs=0.17)
    assert told["network"].mean() == pytest.approx(1 / 3, abs=0.17)


def test_each_draw_has_its_better_attacker_and_values_count_alike():
    values = {"test": np.array([0, 0, 0, 1])}
    first = {"linear probe": np.array([1.0, 1, 1, 0]), "network": np.array([0.0, 0, 0, 1])}
    second = {"linear probe": np.array([1.0, 1, 1, 0]), "network": np.array([0.0, 1, 1, 1])}
    found = told_summary([first, second], values, np.arange(4))
    # Means over the two values: of the first draw 1/2 by either, of the second 5/6 by a network.
    assert found["attribute"] == pytest.approx([0.5, (2 / 3 + 1) / 2])
    assert found["attribute_attacker"] == "linear probe/network"
