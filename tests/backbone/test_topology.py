"""Topologies and their refusals; costs against sums worked by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_params
from privynet_jax.backbone.topology import LocalCost, Topology, local_cost
from privynet_jax.errors import UserError


def test_topology_keeps_release_order_and_normalises_types():
    topology = Topology(np.int64(4), [np.int32(90), 3, 17])
    assert topology == Topology(4, (90, 3, 17))
    assert hash(topology) == hash(Topology(4, (90, 3, 17)))
    assert topology != Topology(4, (3, 17, 90))
    assert all(type(channel) is int for channel in topology.channels)
    assert topology.depth == 3
    assert topology.layer.name == "conv2_2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        topology.num_layers = 5


@pytest.mark.parametrize(
    ("num_layers", "image_size", "side"),
    [(1, 1, 1), (2, 33, 33), (4, 33, 16), (7, 35, 8), (10, 32, 4), (13, 16, 1), (13, 224, 14)],
)
def test_representation_shape_floors_like_pooling(num_layers, image_size, side):
    assert Topology(num_layers, (0, 5)).representation_shape(image_size) == (side, side, 2)


def test_images_too_small_are_refused():
    with pytest.raises(UserError, match="15x15 pixels; conv5_1 needs at least 16x16"):
        Topology(11, (0,)).representation_shape(15)


@pytest.mark.parametrize("num_layers", [0, 14, -1, 2.0, "4", True, None])
def test_bad_num_layers_is_refused(num_layers):
    with pytest.raises(UserError, match="allowed are the integers 1 to 13"):
        Topology(num_layers, (0,))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((), "channels is empty"),
        ((0, 128), "contain 128; allowed are distinct integers 0 to 127 of conv2_2"),
        ((-1, 5), "contain -1"),
        ((1, 2.0), "contain 2.0"),
        ((True,), "contain True"),
        ((7, 3, 7), "repeat 7"),
        (5, "channels is 5"),
        ("12", "channels is '12'"),
        (range(128, 160), "and 24 more"),
    ],
)
def test_bad_channels_are_refused(channels, message):
    with pytest.raises(UserError, match=message):
        Topology(4, channels)


def test_hand_worked_three_layers_on_4x4_images():
    cost = local_cost(Topology(3, (9, 2)), image_size=4)
    # conv1_1: 4*4 * 9*3*64 = 27,648; conv1_2: 4*4 * 9*64*64 = 589,824; conv2_1, two channels
    # after one pool: 2*2 * 9*64*2 = 4,608.
    # Parameters: (27*64 + 64) + (576*64 + 64) + (576*2 + 2) = 1,792 + 36,928 + 1,154.
    # Activations: 16*(3 + 64) = 1,072; 16*(64 + 64) = 2,048; 4*(64 + 2) = 264.
    assert cost == LocalCost(
        macs=27_648 + 589_824 + 4_608,
        param_bytes=4 * (1_792 + 36_928 + 1_154),
        peak_activation_bytes=4 * 2_048,
        release_bytes=4 * 2 * 2 * 2,
    )


def test_whole_trunk_at_224_has_vgg16s_known_totals():
    cost = local_cost(Topology(13, tuple(range(512))), image_size=224)
    assert cost.macs == 15_346_630_656  # the well-known 15.35 GMACs of the convolutions
    assert cost.param_bytes == 4 * 14_714_688
    assert cost.peak_activation_bytes == 4 * 224 * 224 * 128
    assert cost.release_bytes == 4 * 14 * 14 * 512


@pytest.mark.parametrize("num_layers", range(1, 14))
def test_param_bytes_are_those_of_the_stored_parameters(num_layers):
    shapes = {
        layer.name: {
            "kernel": np.zeros(layer.kernel, np.float32),
            "bias": np.zeros(layer.out_channels, np.float32),
        }
        for layer in VGG16.convolutions()
    }
    topology = Topology(num_layers, (1, 0, 3))
    stored = local_params({"preprocessing": {}, **shapes}, topology)
    expected = sum(leaf.nbytes for leaf in jax.tree.leaves(stored))
    assert local_cost(topology, 32).param_bytes == expected


def test_images_too_small_to_cost_anything_are_refused():
    with pytest.raises(UserError, match="1x1 pixels; conv2_1 needs at least 2x2"):
        local_cost(Topology(3, (0,)), image_size=1)
