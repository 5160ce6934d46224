"""Topology against VGG16's published table, and its refusals."""

import dataclasses

import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError


def test_layer_table_is_vgg16():
    assert [layer.name for layer in VGG16.cuts] == [
        *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
        *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
    ]
    assert [cut.channels for cut in VGG16.cuts] == ([64] * 2 + [128] * 2 + [256] * 3 + [512] * 6)
    assert [layer.in_channels for layer in VGG16.convolutions()] == (
        [3, 64, 64, 128, 128, 256, 256, 256] + [512] * 5
    )
    assert [layer.stride for layer in VGG16.cuts] == [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16]


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
