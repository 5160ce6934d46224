"""Costs against sums worked by hand and VGG16's published totals."""

import jax
import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.cost import LocalCost, local_cost
from privynet_jax.backbone.split import local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError


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


def test_impossible_requests_are_refused():
    with pytest.raises(UserError, match="1x1 pixels; conv2_1 needs at least 2x2"):
        local_cost(Topology(3, (0,)), image_size=1)
