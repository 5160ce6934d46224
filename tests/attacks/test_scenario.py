"""One topology under attack: everybody's share of the data, and the score."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.attacks.base import EVERYTHING, NETWORK, PAIRS
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.scenario import OBSERVED_IMAGES, fit_attack, make_scenario, score
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import Part, as_float

TOPOLOGY = Topology(2, (9, 3, 40))  # not ascending: the order of release is the topology's


@pytest.fixture(scope="module")
def scene(vgg_weights, small_parts, tmp_path_factory):
    return make_scenario(vgg_weights, small_parts, TOPOLOGY, tmp_path_factory.mktemp("cache"))


def test_who_knows_everything_computes_what_is_released(scene, small_parts):
    local = scene.knowledge(EVERYTHING).local
    computed = jax.jit(local)(as_float(small_parts.test.images[:5]))
    np.testing.assert_allclose(
        computed, scene.representations("test", slice(5)), rtol=1e-4, atol=1e-5
    )


def test_who_knows_the_network_sees_all_channels_unscaled(scene, small_parts):
    known = scene.knowledge(NETWORK)
    whole = np.asarray(jax.jit(known.network[2](None))(as_float(small_parts.target.images[:3])))
    assert whole.shape == (3, 32, 32, 64)
    some = known.network[2](np.array([7, 3]))(as_float(small_parts.target.images[:3]))
    np.testing.assert_allclose(some, whole[..., [7, 3]], atol=1e-5 * whole.max())
    released = whole[..., list(TOPOLOGY.channels)] * scene.scales
    np.testing.assert_allclose(known.observed[:3], released, rtol=1e-4, atol=1e-5)
    assert known.local is None
    assert len(known.observed) == min(OBSERVED_IMAGES, len(small_parts.target))
    assert known.planted is None


def test_who_planted_images_knows_what_is_released_of_them(scene, small_parts):
    planted = dataclasses.replace(scene, planted=5).knowledge(NETWORK).planted
    np.testing.assert_array_equal(planted.images, small_parts.auxiliary.images[:5])
    released = scene.representations("auxiliary", slice(5))
    np.testing.assert_array_equal(planted.representations[:], released)
    too_many = dataclasses.replace(scene, planted=len(small_parts.auxiliary) + 1)
    with pytest.raises(UserError, match="allowed is 1 to"):
        too_many.knowledge(NETWORK)


def test_who_has_pairs_alone_knows_no_network(scene, small_parts):
    known = scene.knowledge(PAIRS)
    assert known.local is None
    assert known.network is None
    assert known.observed is None
    pairs = scene.pairs()
    assert pairs.representations.shape == (len(pairs.images), 32, 32, 3)
    assert pairs.images is small_parts.auxiliary.images
    assert len(scene.pairs(NETWORK).representations) == 0
    with pytest.raises(UserError, match="knowledge 5; allowed are 'pairs'"):
        scene.pairs(5)
    assert len(scene.pairs(NETWORK).images) == len(small_parts.auxiliary)


def test_scales_are_those_of_the_features_and_not_of_the_images_at_hand(
    scene, vgg_weights, small_parts, tmp_path
):
    few = {name: Part(part.images[:9], part.labels[:9]) for name, part in small_parts.items()}
    channels, features = (40, 9), scene.features
    found = make_scenario(
        vgg_weights,
        dataclasses.replace(small_parts, **few),
        Topology(2, channels),
        tmp_path,
        features=features,
    )
    np.testing.assert_array_equal(found.scales, features.scales[features.positions(channels)])
    np.testing.assert_array_equal(found.scales, scene.scales[[2, 0]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_pairs_are_read_as_the_cache_stores_them(scene, vgg_weights, small_parts, tmp_path, dtype):
    coded = make_scenario(vgg_weights, small_parts, TOPOLOGY, tmp_path, dtype=dtype)
    whole = coded.representations("auxiliary")
    assert whole.dtype == np.float32
    pairs, rows = coded.pairs(), np.array([3, 89, 0, 3])
    assert pairs.representations.dtype == (np.float32 if dtype == "float32" else np.float16)
    assert pairs.representations.shape == whole.shape
    np.testing.assert_array_equal(pairs.chosen(rows).representations[:], whole[rows])
    # Half a step of a byte's logarithm is 3 % of 1 + x at most.
    np.testing.assert_allclose(1 + whole, 1 + scene.representations("auxiliary"), rtol=0.03)


def test_topologies_of_one_layer_have_one_width(scene, small_parts):
    wide = dataclasses.replace(scene, width=5)
    found = wide.representations("test")
    np.testing.assert_array_equal(found[..., :3], scene.representations("test"))
    assert not found[..., 3:].any()
    computed = np.asarray(wide.knowledge(EVERYTHING).local(as_float(small_parts.test.images[:2])))
    # Convolutions over 576 products in float32.
    np.testing.assert_allclose(computed, found[:2], rtol=1e-4, atol=1e-4)
    several = dataclasses.replace(scene, copies=4)
    assert several.pairs().copies == 4
    assert several.pairs(NETWORK).copies == 4


def test_representations_have_a_root_mean_square_of_about_one(scene):
    rms = np.sqrt(np.mean(np.square(np.float32(scene.pairs().representations)), axis=(0, 1, 2)))
    np.testing.assert_allclose(rms, 1, rtol=0.01)


def test_an_attack_is_scored_image_by_image(scene, small_parts):
    [fitted] = fit_attack(LinearInversion(), [scene], [jax.random.key(0)])
    rows = np.array([11, 4, 30])
    found = score(fitted, scene, "test", rows)
    estimates = fitted.reconstruct(scene.representations("test", rows))
    truth = jnp.asarray(as_float(small_parts.test.images[rows]))
    np.testing.assert_allclose(found["psnr_db"], psnr_db(estimates, truth), rtol=1e-5)
    assert score(fitted, scene)["ssim"].shape == (len(small_parts.test),)
