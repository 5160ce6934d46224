"""Adapted local NNs: what they learn, what their penalty measures, and that they are released."""

import jax
import numpy as np
import pytest
import scipy.spatial
from support.noise import noise_parts

from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.scenario import Scenario, make_scenario
from privynet_jax.backbone import split
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapted import (
    EarlyExit,
    NoPeek,
    adapted_params,
    distance_correlation,
)
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.scenes import released_scene

KEY, TOPOLOGY = jax.random.key(2), Topology(2, (3, 17, 40, 50))


@pytest.fixture(scope="module")
def clean(vgg_weights, small_parts, tmp_path_factory):
    return make_scenario(vgg_weights, small_parts, TOPOLOGY, tmp_path_factory.mktemp("cache"))


def test_distance_correlation_is_as_defined():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3, 2))
    y = x[:, :2, 0] ** 2 + 0.3 * rng.standard_normal((20, 2))

    def covariance(a, b):
        total = 0.0
        for i, j in np.ndindex(a.shape):
            centred = [d[i, j] - d[i].mean() - d[:, j].mean() + d.mean() for d in (a, b)]
            total += centred[0] * centred[1] / a.size
        return total

    a, b = (
        scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(z.reshape(20, -1)))
        for z in (x, y)
    )
    expected = np.sqrt(covariance(a, b) / np.sqrt(covariance(a, a) * covariance(b, b)))
    assert float(distance_correlation(x, y)) == pytest.approx(expected, rel=1e-3)
    assert float(distance_correlation(x, 3 * x)) == pytest.approx(1, rel=1e-3)
    # Rows that are equal have no direction to part in, and gradients all the same.
    slopes = jax.grad(distance_correlation)(np.ones((4, 2), np.float32), y[:4])
    assert np.isfinite(slopes).all()


def test_the_exit_learns_and_the_local_nn_with_it(clean):
    before = split.local_params(clean.weights.params, TOPOLOGY)
    after = adapted_params(clean, None, KEY, steps=12, rate=1e-3)
    assert after.keys() == before.keys()
    for name in ("conv1_1", "conv1_2"):
        moved = np.abs(after[name]["kernel"] - before[name]["kernel"])
        assert 1e-4 < moved.max() < 0.1
    np.testing.assert_array_equal(after["preprocessing"]["scale"], before["preprocessing"]["scale"])


def test_nopeek_makes_representations_tell_less(clean):
    images = as_float(clean.parts.test.images[:40])

    def told(params):
        return float(distance_correlation(images, split.apply(TOPOLOGY, params, images)))

    free, penalised = (
        adapted_params(clean, penalty, KEY, steps=25, rate=1e-3)
        for penalty in (None, NoPeek(weight=30.0)._penalty())
    )
    assert told(penalised) < told(free) - 0.02


def test_what_it_makes_is_released_and_known_to_who_has_it(clean):
    mechanism = EarlyExit(steps=3, rate=1e-3)
    scene = released_scene(clean, mechanism, KEY)
    images = as_float(clean.parts.test.images[:3])
    of_white_box = np.asarray(scene.knowledge(EVERYTHING).local(images))
    np.testing.assert_allclose(scene.representations("test", slice(3)), of_white_box, atol=1e-4)
    plain = released_scene(clean, Plain(), KEY).representations("test", slice(3))
    assert np.abs(plain - of_white_box).max() > 1e-3
    # The same key, the same local NN.
    again = released_scene(clean, mechanism, KEY).representations("test", slice(3))
    np.testing.assert_allclose(again, of_white_box, atol=1e-4)


def test_without_weights_there_is_nothing_to_adapt():
    parts = noise_parts({"target": 4, "auxiliary": 4, "validation": 2, "test": 2}, 16)
    with pytest.raises(UserError, match="starts from the pretrained one; give its weights"):
        EarlyExit(steps=1).local(Scenario(TOPOLOGY, parts, None), KEY)
