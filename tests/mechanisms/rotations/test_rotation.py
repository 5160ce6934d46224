"""Rotation as a mechanism: what is trained, released, kept, and known to whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.noise import noise_parts

from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.scenario import make_scenario
from privynet_jax.backbone.split import apply, local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation.measure import cloud_accuracies
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import Seen
from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.critic import Critic
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.mechanisms.words import parse_mechanism
from privynet_jax.training.tasks import Schedule

KEY, SIZE, DEPTH = jax.random.key(1), 16, 3
COUNTS = {"target": 5, "auxiliary": 40, "validation": 4, "test": 6}
TOPOLOGY = Topology(2, (3, 17, 40))
MECHANISMS = [Rotation(2, 1e-3, 1.0), Quaternion(2, 1e-3, 1.0)]


@pytest.fixture(scope="module")
def clean(vgg_weights, tmp_path_factory):
    parts = noise_parts(COUNTS, SIZE)
    return make_scenario(vgg_weights, parts, TOPOLOGY, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=MECHANISMS, ids=str)
def scene(clean, request):
    return released_scene(clean, request.param, KEY, copies=2)


def hidden(scene, part):
    images = as_float(getattr(scene.release.parts, part).images)
    return np.asarray(scene.release.local(images))


def turned_back(asked, parts):
    z, kept = asked[..., :-parts], asked[:, 0, 0, -parts:]
    return np.asarray(turns.turned_back(kept, turns.unpacked(z, parts)))


def test_the_device_turns_back_every_query_and_nobody_else(scene):
    parts = scene.release.mechanism.parts
    for part in ("test", "target", "validation"):
        asked = scene.asked(part)
        copies = 4 if part == "target" else 1
        assert asked.shape == (copies * COUNTS[part], SIZE, SIZE, parts * DEPTH + parts)
        expected = np.repeat(hidden(scene, part), copies, axis=0) / scene.release.unit
        found = turned_back(asked[:], parts)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        # Any rows, in any order; and what attackers see is the same without what is kept.
        some = asked[np.array([3, 1])]
        np.testing.assert_array_equal(some[..., -parts:], asked[:][[3, 1]][..., -parts:])
        np.testing.assert_allclose(scene.stored(part)[:], asked[:][..., :-parts], atol=1e-5)
    kept = scene.asked("test")[:][:, 0, 0, -parts:]
    assert np.linalg.norm(kept, axis=-1) == pytest.approx(1, abs=1e-5)
    assert np.abs(np.diff(kept, axis=0)).max(axis=1).min() > 0.01


def test_others_are_the_device_s_own_pictures(scene):
    """Each released row lies in the span of its own features and those of validation pictures."""
    parts = scene.release.mechanism.parts
    own, others = hidden(scene, "test"), hidden(scene, "validation").reshape(4, -1)
    released = scene.representations("test") * scene.release.unit
    for row in range(COUNTS["test"]):
        basis = np.vstack([own[row].reshape(1, -1), others])
        z = np.asarray(turns.unpacked(released[row], parts)).reshape(parts, -1)
        weights, *_ = np.linalg.lstsq(basis.T, z.T, rcond=None)
        np.testing.assert_allclose(basis.T @ weights, z.T, atol=1e-3)
        # As many others as the mechanism says, with weights that are a rotation.
        used = np.abs(weights).max(axis=1) > 1e-3
        assert used[0]
        assert used.sum() == parts
        np.testing.assert_allclose(weights[used].T @ weights[used], np.eye(parts), atol=1e-3)


def test_who_has_the_local_nn_has_no_angle(scene):
    known = scene.knowledge(EVERYTHING)
    assert known.secret is None
    images = as_float(scene.release.parts.test.images[:2])
    found = np.asarray(known.local(images)) * scene.release.unit
    np.testing.assert_allclose(found[..., :DEPTH], hidden(scene, "test")[:2], atol=1e-4)
    assert not found[..., DEPTH:].any()


def test_accuracy_is_measured_there_and_back(scene):
    """Through the trainer: answers to turned queries are decoded with what each one keeps."""
    network = scene.release.mechanism.cloud_nn(COUNTS["auxiliary"], SIZE)
    given = {part: scene.asked(part) for part in ("target", "validation", "test")}
    [found] = cloud_accuracies(network, Schedule(2, 4), [KEY], [given], [scene.parts])
    assert found["test"].shape == (COUNTS["test"],)
    assert set(np.unique(found["test"])) <= {0, 1}


def test_features_start_as_those_before_the_relu(clean):
    mechanism = Rotation(1, 1e-9, 0.0)
    found = np.asarray(mechanism.local(clean, KEY)(as_float(clean.parts.auxiliary.images)))
    assert found.mean(axis=(0, 1, 2)) == pytest.approx([0] * DEPTH, abs=1e-3)
    assert found.std(axis=(0, 1, 2)) == pytest.approx([1] * DEPTH, abs=1e-3)
    params = local_params(clean.weights.params, TOPOLOGY)
    images = as_float(clean.parts.test.images)
    signed = np.asarray(apply(TOPOLOGY, params, images, is_rectified=False))
    np.testing.assert_allclose(np.maximum(signed, 0), apply(TOPOLOGY, params, images), atol=1e-4)
    assert signed.min() < 0


def test_the_critic_learns_and_the_local_nn_deceives_it():
    z = jax.random.normal(KEY, (6, 4, 4, DEPTH))

    def seen(params, z):
        return Seen(params, None, z, None, KEY, None, None)

    def slopes(weight):
        mechanism = Rotation(critic=weight)

        def term(params, z):
            return mechanism.term(seen(params, z))

        params = mechanism.begun(KEY, seen({}, z))
        return params, *jax.grad(term, argnums=(0, 1))(params, z)

    params, learns, hides = slopes(1.0)
    _, again, twice = slopes(2.0)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), learns, again)
    np.testing.assert_allclose(twice, 2 * hides, atol=1e-6)

    def error(params, z):
        """The critic's mean logistic loss, of each row behind the one before it."""
        angle = (2 * np.pi * (np.arange(6) + 0.5) / 6)[:, None, None, None]
        wrong = np.cos(angle) * z - np.sin(angle) * jnp.roll(z, 1, axis=0)
        right, wrong = (np.float64(Critic().apply(params, x)) for x in (z, jnp.float32(wrong)))
        return np.mean(np.log1p(np.exp(-right)) + np.log1p(np.exp(wrong))) / 2

    # A short step along each slope: who learns errs less, who hides makes it err more.
    before = error(params["critic"], z)
    learnt = jax.tree.map(lambda x, slope: x - 0.1 * slope, params, learns)
    assert error(learnt["critic"], z) < before
    assert error(params["critic"], z - 10 * hides) > before


def test_words_and_bad_settings():
    with pytest.raises(UserError, match="critic=-1"):
        Rotation(critic=-1.0)
    with pytest.raises(UserError, match="part validation, which has 1; give more"):
        Quaternion().prepared(None, None, np.zeros((1, 4, 4, 3), np.uint8))
    assert parse_mechanism("rotation:steps=2,rate=0.001,critic=1") == MECHANISMS[0]
    assert parse_mechanism(str(MECHANISMS[1])) == MECHANISMS[1]
    with pytest.raises(UserError, match="none turns features"):
        parse_mechanism("quantise:bits=2+rotation")
    assert Rotation().protects == "queries"
    assert Quaternion().depth(16) == 48
