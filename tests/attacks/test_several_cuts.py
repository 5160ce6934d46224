"""Releases of one picture side by side: by hand, and what an attacker makes of them."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.scenario import Scenario, fit_attack, score
from privynet_jax.attacks.several_cuts import JoinedMaps, joined_places, joined_scene
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError


def test_maps_by_hand():
    large = np.arange(2 * 3 * 3.0).reshape(2, 3, 3, 1)
    small = np.float16([[[[7]]], [[[8]]]])
    joined = JoinedMaps([large, small])
    assert joined.shape == (2, 3, 3, 2)
    assert joined.dtype == np.float64
    assert np.array_equal(joined[1][..., :1], large[1])
    assert (joined[1][..., 1] == 8).all()
    # Two positions over three: the first takes what lies before its end.
    two = np.array([[[[1.0], [2.0]], [[3.0], [4.0]]]])
    assert JoinedMaps([np.zeros((1, 3, 3, 1)), two])[0][..., 1].tolist() == [
        [1, 1, 2],
        [1, 1, 2],
        [3, 3, 4],
    ]


def features(parts, num_layers, channels, side, seed):
    """Made-up maps of all parts, of the pictures' means and of chance."""
    stream = np.random.default_rng(seed)
    found = {}
    for name, part in parts.items():
        means = part.images.mean(axis=(1, 2, 3))[:, None, None, None] / 255
        chance = stream.normal(size=(len(part.images), side, side, len(channels)))
        found[name] = np.float32(means + 0.1 * chance)
    return LayerFeatures(num_layers, channels, found, np.arange(1.0, 1 + len(channels)))


def test_channels_of_one_layer_come_once(small_parts):
    deep = features(small_parts, 7, (1, 4, 6), 8, seed=0)
    shallow = features(small_parts, 2, (0, 3), 32, seed=1)
    scenes = [
        Scenario(Topology(7, (6, 1)), small_parts, deep),
        Scenario(Topology(2, (3,)), small_parts, shallow),
        Scenario(Topology(7, (4, 6)), small_parts, deep),
    ]
    scene = joined_scene(scenes)
    assert scene.topology.num_layers == 2
    # Channel 3 of layer 2, then 1, 4 and 6 of layer 7.
    assert scene.scales.tolist() == [2, 1, 2, 3]
    assert joined_places(scenes) == [(3, 1), (0,), (2, 3)]
    rows = np.array([3, 0])
    stored = scene.representations("test", rows)
    assert stored.shape == (2, 32, 32, 4)
    assert np.array_equal(stored[..., 0], shallow.parts["test"][rows][..., 1])
    assert np.array_equal(stored[:, ::4, ::4, 1:], deep.parts["test"][rows])
    assert np.array_equal(stored[:, 3::4, 3::4, 1:], deep.parts["test"][rows])


def test_two_halves_tell_more_than_each(small_parts):
    """One layer holds the left half of the picture's brightness, the other the right one."""
    scenes = []
    for number, where in ((2, slice(None, 16)), (4, slice(16, None))):
        found = {}
        for name, part in small_parts.items():
            seen = np.zeros((len(part.images), 32, 32, 1), np.float32)
            seen[:, :, where, 0] = part.images[:, :, where].mean(axis=-1) / 255
            found[name] = seen
        layer = LayerFeatures(number, (0,), found, np.ones(1))
        scenes.append(Scenario(Topology(number, (0,)), small_parts, layer))
    attack, keys = LinearInversion(), [jax.random.key(0)]
    alone = []
    for scene in scenes:
        [fitted] = fit_attack(attack, [scene], keys)
        alone.append(score(fitted, scene)["psnr_db"].mean())
    scene = joined_scene(scenes)
    [fitted] = fit_attack(attack, [scene], keys)
    assert score(fitted, scene)["psnr_db"].mean() > max(alone) + 3


def test_who_needs_the_local_nn_is_refused(small_parts):
    deep = features(small_parts, 7, (1, 4), 8, seed=0)
    scene = joined_scene([Scenario(Topology(7, (1,)), small_parts, deep)] * 2)
    with pytest.raises(UserError, match="these representations do not come from alone"):
        fit_attack(WhiteBox(LinearInversion()), [scene], [jax.random.key(0)])
