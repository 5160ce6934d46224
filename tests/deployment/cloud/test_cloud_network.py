"""The cloud finds the working grid without the images' size, and batches change no number."""

import jax
import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.cloud.cloud_network import (
    BatchedNetwork,
    network_for,
    nominal_image_size,
)
from privynet_jax.errors import UserError


def side_of(layer, image_size):
    return Topology(layer, (0,)).representation_shape(image_size)[0]


def grid_of(side, depth=2):
    """The grid that the network works on, read from what its first block is given."""
    network = network_for((side, side, depth), 2, width=4)
    x = np.ones((1, side, side, depth), np.float32)

    def run(key):
        variables = network.init(key, x)
        return network.apply(variables, x, capture_intermediates=True, mutable="intermediates")[1]

    shapes = jax.eval_shape(run, jax.random.key(0))
    return shapes["intermediates"]["WorkingGrid_0"]["__call__"][0].shape[1:3]


@pytest.mark.parametrize("layer", range(1, len(VGG16.cuts) + 1))
def test_images_of_32_pixels_meet_the_characterisation_s_grid(layer):
    side = side_of(layer, 32)
    assert nominal_image_size(side) == 32
    assert grid_of(side) == (8, 8)


# One layer of each side: 64, 32, 16, 8, 4 and 224, 112, 56, 28, 14.
LARGER = {64: {2: 16, 3: 8, 5: 8, 8: 8, 13: 8}, 224: {2: 56, 3: 28, 5: 14, 8: 14, 13: 14}}


@pytest.mark.parametrize(("size", "layer"), [(s, m) for s, grids in LARGER.items() for m in grids])
def test_larger_images(size, layer):
    side, expected = side_of(layer, size), LARGER[size][layer]
    assert nominal_image_size(side) == 4 * expected
    assert grid_of(side) == (expected, expected)


@pytest.mark.parametrize(
    ("side", "grid"),
    [(1, 4), (2, 8), (3, 12), (4, 8), (5, 10), (6, 12), (7, 14), (9, 9), (15, 15), (18, 9)],
)
def test_other_sides(side, grid):
    assert nominal_image_size(side) == 4 * grid
    assert grid_of(side) == (grid, grid)


@pytest.mark.parametrize("shape", [(8, 4, 3), (8, 8), (0, 0, 3), (8, 8, 0)])
def test_what_is_no_square(shape):
    with pytest.raises(UserError, match="allowed are squares"):
        network_for(shape, 2, 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_batches_give_the_network_s_own_logits(dtype):
    shape = (5, 5, 3)
    network = network_for(shape, 4, width=4)
    batched = BatchedNetwork(network, shape)
    count = batched.batch_size + 3
    x = np.random.default_rng(0).random((count, *shape)).astype(dtype)
    params = jax.jit(network.init)(jax.random.key(0), np.float32(x[:1]))
    told = []
    found = batched.logits(params, x, told.append)
    assert told == [batched.batch_size, 3]
    assert (found.shape, found.dtype) == ((count, 4), np.float32)
    # The same sums in another order.
    np.testing.assert_allclose(found, network.apply(params, np.float32(x)), atol=1e-5)
    np.testing.assert_array_equal(batched.logits(params, x[-3:])[-1], found[-1])
    assert batched.logits(params, x[:0]).shape == (0, 4)
