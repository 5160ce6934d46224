"""Known answers: without strength a mechanism costs nothing; with all strength nothing is left."""

import numpy as np
import pytest
from support.handmade_layers import handmade_features

from experiments.comparing.ground import Ground
from experiments.comparing.mechanism_trials import scenes_under
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import ChannelDropout, GaussianNoise
from privynet_jax.results.cells import Cell
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.tasks import Schedule

SIZE, CLASSES = 16, 4
COUNTS = {"target": 256, "auxiliary": 192, "validation": 16, "test": 96}
SOME_NOISE = GaussianNoise(1.0, 0.3)
CELLS = [Cell(Topology(4, tuple(range(12))), 0), Cell(Topology(4, tuple(range(2, 14))), 1)]
TRAINING = Training(Budget(20, batch_size=16), capacities=capacities_of_size(8, 1))


@pytest.fixture(scope="module")
def ground():
    """Images whose class is a strong tint, so that a cloud NN learns it within few steps.

    The layer is invertible: channels are pixels, 2 x 2 of them at each position, and some noise.
    """
    rng = np.random.default_rng(0)
    tints = rng.uniform(0.2, 0.8, (CLASSES, 3))

    def part(count):
        labels = rng.integers(0, CLASSES, count).astype(np.int32)
        images = tints[labels][:, None, None] + rng.uniform(-0.2, 0.2, (count, SIZE, SIZE, 3))
        return Part(np.uint8(255 * images.clip(0, 1)), labels)

    made = {name: part(count) for name, count in COUNTS.items()}
    parts = Parts(**made, class_names=tuple("abcd"), name="tints", fingerprint="")
    stored = {}
    for name, own in parts.items():
        folded = np.asarray(space_to_depth(as_float(own.images), 2))
        stored[name] = np.concatenate([2 * folded, 0.5 * folded[..., :2]], axis=-1)
    features = {4: handmade_features(4, range(14), stored)}
    return Ground(parts, weights=None, features=features)


def measured(ground, mechanism, cells=CELLS):
    attacks = named_attacks(
        ["linear", "residual"],
        Training(TRAINING.budget, capacities=TRAINING.capacities),
    )
    cloud = cloud_nn(CLASSES, SIZE, width=8)
    protocol = Protocol(cloud, Schedule(40, 32, 1e-2), attacks)
    scenes = scenes_under(ground, cells, mechanism, copies=2, seed=0)
    return measure(cells, scenes, protocol, seed=0)


@pytest.fixture(scope="module")
def noisy(ground):
    return measured(ground, SOME_NOISE)


def strongest(measurement):
    return max(a["test"]["psnr_db"].mean() for a in measurement.attacks.values())


def accuracy(measurement):
    return measurement.accuracy["test"].mean()


@pytest.mark.slow
def test_without_strength_all_is_as_without_a_mechanism(ground):
    plain = measured(ground, Plain())
    for mechanism in (ChannelDropout(0.0), GaussianNoise(1e9, 0.0)):
        for without, with_it in zip(plain, measured(ground, mechanism), strict=True):
            np.testing.assert_array_equal(with_it.accuracy["test"], without.accuracy["test"])
            for name, attack in without.attacks.items():
                found = with_it.attacks[name]["test"]["psnr_db"]
                assert found == pytest.approx(attack["test"]["psnr_db"], abs=1e-3)
    # The first cell's representation holds every pixel.
    assert strongest(plain[0]) > 40
    assert min(map(accuracy, plain)) > 0.9


def test_noise_costs_both_sides_and_infinite_noise_leaves_the_mean_image_and_chance(ground, noisy):
    parts = ground.parts
    mean = as_float(parts.auxiliary.images).mean(0)
    blind = float(
        np.mean(psnr_db(np.broadcast_to(mean, (96, SIZE, SIZE, 3)), as_float(parts.test.images)))
    )
    for some, much in zip(noisy, measured(ground, GaussianNoise(1.0, 1e12)), strict=True):
        assert 40 > strongest(some) > strongest(much) + 2
        assert blind - 1.0 < strongest(much) < blind + 0.1
        # Chance is 0.25 of 96 images, with a standard deviation of 0.044.
        assert accuracy(much) < 0.25 + 4 * 0.044 < accuracy(some)


def test_a_cell_s_numbers_do_not_depend_on_the_cells_beside_it(ground, noisy):
    """Its noise comes from the cell, as everything else that is random in it does."""
    (alone,), beside = measured(ground, SOME_NOISE, CELLS[1:]), noisy[1]
    np.testing.assert_array_equal(alone.accuracy["test"], beside.accuracy["test"])
    for name, attack in beside.attacks.items():
        # A network that trains alone adds up its gradients over devices: float32 in another order.
        found = alone.attacks[name]["test"]["psnr_db"]
        assert found == pytest.approx(attack["test"]["psnr_db"], abs=1e-2)
