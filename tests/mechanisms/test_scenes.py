"""What attackers of each class are given of a release under a mechanism."""

import jax
import numpy as np
import pytest
from support.handmade_layers import handmade_features
from support.noise import noise_parts

from privynet_jax.attacks.base import EVERYTHING, NETWORK, PAIRS
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.scenario import Scenario, fit_attack, make_scenario, score
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.rmt import Rmt
from privynet_jax.mechanisms.disguises.undoing import BySecret, seen_through
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT, Plain
from privynet_jax.mechanisms.noises import ChannelDropout, GaussianNoise
from privynet_jax.mechanisms.scenes import averaged, picture_scene, released_scene

KEY, SIZE = jax.random.key(1), 16
COUNTS = {"target": 9, "auxiliary": 24, "validation": 4, "test": 5}


@pytest.fixture(scope="module")
def parts():
    return noise_parts(COUNTS, SIZE)


@pytest.fixture(scope="module")
def disguised(parts):
    return released_scene(picture_scene(parts), Rmt(block=4), KEY)


def test_pictures_are_released_in_their_own_unit(disguised, parts):
    secret = disguised.knowledge(EVERYTHING).secret
    image = Rmt(block=4).undone(secret, PICTURE_UNIT * disguised.representations("test")[2])
    np.testing.assert_allclose(255 * np.asarray(image), parts.test.images[2], atol=1e-3)


def test_each_class_has_its_own_share(disguised):
    assert len(disguised.pairs(PAIRS).representations) == 24
    assert disguised.knowledge(PAIRS).secret is None
    assert len(disguised.pairs(NETWORK).representations) == 0
    public = disguised.knowledge(NETWORK)
    assert public.secret is None
    np.testing.assert_array_equal(public.observed[:], disguised.representations("target"))
    assert disguised.knowledge(EVERYTHING).local is None


def test_who_has_the_secret_undoes_it(disguised):
    attack = seen_through(BySecret(Rmt(block=4)), LinearInversion())
    assert (attack.name, attack.knowledge) == ("secret, then linear", EVERYTHING)
    [fitted] = fit_attack(attack, [disguised], [KEY])
    # Pixels themselves are regressed on pixels, with a ridge.
    assert score(fitted, disguised)["psnr_db"].min() > 40
    with pytest.raises(UserError, match="undone by its secret"):
        attack.fit([disguised.pairs()], [disguised.knowledge(PAIRS)], [KEY])


def test_the_mean_of_several_releases_has_less_noise(parts):
    stored = {name: np.zeros((count, 8, 8, 8)) for name, count in COUNTS.items()}
    features = handmade_features(4, range(8), stored)
    clean = Scenario(Topology(4, (1, 5)), parts, features)
    noise = GaussianNoise(1.0, 0.5)
    once = released_scene(clean, noise, KEY)
    often = averaged(once, 16)
    # Both are of root mean square 1; before, their noise was 0.5 and a quarter of that.
    units = [scene.release.unit for scene in (once, often)]
    assert units[0] == pytest.approx(0.5, rel=0.05)
    assert units[1] == pytest.approx(0.125, rel=0.05)


@pytest.mark.parametrize(
    "mechanism", [Plain(), GaussianNoise(0.5, 0.2), ChannelDropout(0.5)], ids=str
)
def test_white_boxes_are_given_what_is_released_on_average(parts, mechanism, vgg_weights, tmp_path):
    clean = make_scenario(vgg_weights, parts, Topology(2, (3, 17, 40, 50)), tmp_path)
    scene = averaged(released_scene(clean, mechanism, KEY), 200)
    local = scene.knowledge(EVERYTHING).local
    expected = np.asarray(local(as_float(parts.test.images[:2])))
    mean = scene.representations("test", slice(2))
    assert np.corrcoef(expected.ravel(), mean.ravel())[0, 1] > 0.98
