"""The cloud finds the working grid without the images' size."""

import jax
import numpy as np
import pytest

from privynet_jax.deployment.cloud.cloud_network import network_for, nominal_image_size
from privynet_jax.errors import UserError


def grid_of(side, depth=2):
    """The grid that the network works on, read from what its first block is given."""
    network = network_for((side, side, depth), 2, width=4)
    x = np.ones((1, side, side, depth), np.float32)

    def run(key):
        variables = network.init(key, x)
        return network.apply(variables, x, capture_intermediates=True, mutable="intermediates")[1]

    shapes = jax.eval_shape(run, jax.random.key(0))
    return shapes["intermediates"]["WorkingGrid_0"]["__call__"][0].shape[1:3]


# Sides of representations of 32 pixels, which meet the characterisation's grid, of 64 and of 224,
# then others.
GRIDS = {
    **{32: 8, 16: 8, 8: 8, 4: 8, 2: 8},
    **{64: 16, 224: 56, 112: 28, 56: 14, 28: 14, 14: 14},
    **{1: 4, 3: 12, 5: 10, 9: 9, 15: 15, 18: 9},
}


@pytest.mark.parametrize("side", GRIDS)
def test_every_side_meets_a_grid_that_suits_it(side):
    grid = GRIDS[side]
    assert nominal_image_size(side) == 4 * grid
    assert grid_of(side) == (grid, grid)


@pytest.mark.parametrize("shape", [(8, 4, 3), (8, 8), (0, 0, 3), (8, 8, 0)])
def test_what_is_no_square(shape):
    with pytest.raises(UserError, match="allowed are squares"):
        network_for(shape, 2, 4)
