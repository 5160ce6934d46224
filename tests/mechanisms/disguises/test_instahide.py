"""InstaHide: mixtures are what they say, and signs hide nothing of magnitudes."""

import jax
import numpy as np
import pytest
from support.noise import noise_parts

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.registry import Training
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.disguises.instahide import InstaHide, Magnitudes
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT
from privynet_jax.mechanisms.scenes import averaged, picture_scene, released_scene
from privynet_jax.mechanisms.words import parse_mechanism
from privynet_jax.training.models.attackers import CAPACITIES

KEY, SIZE = jax.random.key(4), 8


def pictures(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_a_mixture_of_two_is_one_up_to_signs():
    mechanism, public, own = InstaHide(pictures=2, most=0.65), pictures(1, 0), pictures(1, 1)[0]
    secret = mechanism.secret(KEY, public)
    x, p = (2 * np.float64(z) / 255 - 1 for z in (own, public[0]))
    weights, signs = [], []
    for key in jax.random.split(KEY, 30):
        mixed = np.asarray(mechanism.of_image(secret, key, np.float32(own) / 255))
        tried = np.linspace(0.5, 0.65, 1501)
        apart = [np.abs(np.abs(mixed) - np.abs(w * x + (1 - w) * p)).max() for w in tried]
        assert min(apart) < 1e-3
        weights.append(tried[int(np.argmin(apart))])
        exact = weights[-1] * x + (1 - weights[-1]) * p
        signs.append((np.sign(mixed) == np.sign(exact)).mean())
    assert np.ptp(weights) > 0.1
    # Half of 192 signs are turned, with a standard deviation of 0.036 of each picture's share.
    assert np.abs(np.array(signs) - 0.5).max() < 5 * 0.036


@pytest.mark.parametrize("count", [2, 4, 6])
def test_weights_add_up_and_the_own_one_is_the_largest(count):
    mechanism = InstaHide(count, most=0.5)
    for key in jax.random.split(KEY, 50):
        first, others = mechanism._weights(key)
        assert len(others) == count - 1
        assert float(first + others.sum()) == pytest.approx(1)
        assert float(first) <= mechanism.most + 1e-6
        assert float(first) >= float(others.max()) - 1e-6


def test_bad_settings_are_refused():
    for text, told in {
        "instahide:pictures=1": "pictures=1; allowed: 2 or more",
        "instahide:pictures=4,most=0.4": "most=0.4; allowed: 0.5 to 1",
    }.items():
        with pytest.raises(UserError, match=told):
            parse_mechanism(text)


def test_attackers_of_both_classes_are_told_apart():
    network = InverseNetwork("strong", (CAPACITIES["strong"],), Training())
    found = {attack.name: attack.knowledge for attack in InstaHide().adapted(network)}
    assert found == {
        "magnitudes, then strong": PAIRS,
        "magnitudes of its own, then strong": NETWORK,
    }


def test_whoever_has_no_pairs_makes_them():
    mechanism, own = InstaHide(), pictures(40, 2)
    nothing = np.zeros((0, SIZE, SIZE, 3), np.float32)
    twice = np.repeat(own, 2, axis=0)
    made = Magnitudes(mechanism, NETWORK).learnt(Pairs(nothing, twice, 2), Knowledge(NETWORK), KEY)
    left = np.asarray(made.pairs.representations)
    assert left.shape == twice.shape
    assert made.pairs.copies == 2
    assert left.min() >= 0
    assert left.max() <= 1 / PICTURE_UNIT
    assert np.abs(left[::2] - left[1::2]).mean() > 0.01
    seen = Magnitudes(mechanism, PAIRS).learnt(Pairs(left - 1, twice, 2), Knowledge(PAIRS), KEY)
    np.testing.assert_array_equal(seen.pairs.representations, np.abs(left - 1))
    np.testing.assert_array_equal(seen.undo(left - 1), np.abs(left - 1))


def test_means_of_several_releases_are_of_magnitudes():
    parts = noise_parts({"target": 4, "auxiliary": 6, "validation": 2, "test": 3}, SIZE)
    scene = averaged(released_scene(picture_scene(parts), InstaHide(), KEY), 6)
    assert scene.representations("test").min() > 0
