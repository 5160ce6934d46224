"""Adapted local NNs: that the exit learns and the local NN with it, and what is released."""

import jax
import numpy as np
import pytest
from support.noise import noise_parts

from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone import split
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import EarlyExit, adapted_params
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.mechanisms.words import parse_mechanism

KEY, TOPOLOGY = jax.random.key(2), Topology(2, (3, 17, 40, 50))


def test_the_exit_learns_and_the_local_nn_with_it(clean):
    before = split.local_params(clean.weights.params, TOPOLOGY)
    after = adapted_params(clean, EarlyExit(steps=12, rate=1e-3), KEY)["local"]
    assert after.keys() == before.keys()
    for name in ("conv1_1", "conv1_2"):
        moved = np.abs(after[name]["kernel"] - before[name]["kernel"])
        assert 1e-4 < moved.max() < 0.1
    np.testing.assert_array_equal(after["preprocessing"]["scale"], before["preprocessing"]["scale"])


def test_what_it_makes_is_released_and_known_to_who_has_it(clean):
    mechanism = EarlyExit(steps=3, rate=1e-3)
    scene = released_scene(clean, mechanism, KEY)
    images = as_float(clean.parts.test.images[:3])
    of_white_box = np.asarray(scene.knowledge(EVERYTHING).local(images))
    np.testing.assert_allclose(scene.representations("test", slice(3)), of_white_box, atol=1e-4)
    plain = released_scene(clean, Plain(), KEY).representations("test", slice(3))
    assert np.abs(plain - of_white_box).max() > 1e-3
    # Of several copies, too, the local NN's representations are computed once, and are the same:
    # the same key, the same local NN.
    noiseless = parse_mechanism(f"{mechanism}+gaussian:clip=inf,sigma=0")
    several = released_scene(clean, noiseless, KEY, copies=3)
    own = np.asarray(scene.knowledge(EVERYTHING).local(as_float(clean.parts.auxiliary.images[:2])))
    found = several.release.unit * several.representations("auxiliary", np.array([0, 2, 5]))
    np.testing.assert_allclose(found, scene.release.unit * own[[0, 0, 1]], atol=1e-4)


def test_without_weights_there_is_nothing_to_adapt():
    parts = noise_parts({"target": 4, "auxiliary": 4, "validation": 2, "test": 2}, 16)
    with pytest.raises(UserError, match="starts from the pretrained one; give its weights"):
        EarlyExit(steps=1).local(Scenario(TOPOLOGY, parts, None), KEY)
