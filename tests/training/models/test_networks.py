"""Shapes, sizes, starting point and geometry of the cloud NN and the attacker, for every stride."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.training.models.networks import (
    Attention,
    ResidualBlock,
    StrongAttacker,
    WorkingGrid,
    attacker,
    cloud_nn,
    network_for,
    nominal_image_size,
)

# (image size, stride of the representation): all of VGG16's strides, and larger images.
GEOMETRIES = [(32, 1), (32, 2), (32, 4), (32, 8), (32, 16), (64, 2), (64, 16)]
DEPTH = 5


def representations(image_size, stride, count=2, seed=0):
    side = image_size // stride
    # Post-ReLU, as every representation is.
    return jax.nn.relu(jax.random.normal(jax.random.key(seed), (count, side, side, DEPTH)))


def count_of(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def randomised(variables, seed=1):
    """The same tree without a zero, so that everything that can act does."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.3, leaf.shape)), variables)


@pytest.mark.parametrize(("image_size", "stride"), GEOMETRIES)
def test_output_shapes(image_size, stride):
    x = representations(image_size, stride, count=3)
    cloud, attack = cloud_nn(7, image_size, width=8), attacker(image_size, width=8, num_blocks=1)
    logits, _ = jax.eval_shape(cloud.init_with_output, jax.random.key(0), x)
    correction, _ = jax.eval_shape(attack.init_with_output, jax.random.key(0), x)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    assert (correction.shape, correction.dtype) == ((3, image_size, image_size, 3), jnp.float32)


@pytest.mark.parametrize("stride", [1, 16])  # folded, and unfolded
def test_the_attackers_correction_starts_at_zero(stride):
    x = representations(32, stride)
    network = attacker(32, width=8, num_blocks=2)
    correction, _ = jax.jit(network.init_with_output)(jax.random.key(3), x)
    np.testing.assert_array_equal(correction, 0)


def test_a_residual_block_starts_as_the_identity():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
    block = ResidualBlock(8)
    y, variables = jax.jit(block.init_with_output)(jax.random.key(1), x)
    np.testing.assert_array_equal(y, x)
    assert np.abs(block.apply(randomised(variables), x) - x).max() > 0.1


def test_parameters_of_the_cloud_nn_by_hand():
    # conv2_1 or conv2_2 of 32 x 32 images, 16 channels: 2 x 2 pixels folded give 64 channels.
    network = cloud_nn(num_classes=30, image_size=32, width=64)
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 16)))
    stem = 64 * 64 + 64
    first_block = 2 * (9 * 64 * 64 + 64)
    halving = 4 * 64 * 128 + 128
    second_block = 2 * (9 * 128 * 128 + 128)
    norm_and_head = 2 * 128 + 128 * 30 + 30
    total = stem + first_block + halving + second_block + norm_and_head
    assert count_of(variables) == total == 410_206


def test_parameters_of_the_attacker_by_hand():
    network = attacker(image_size=32, width=96, num_blocks=3)
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 16)))
    stem = 64 * 96 + 96
    blocks = 3 * 2 * (9 * 96 * 96 + 96)
    head = 9 * 96 * 48 + 48
    assert count_of(variables) == stem + blocks + head == 546_000
    # At stride 16 each of 16 channels is unfolded to 4 x 4 positions of 96.
    deep = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 16)))
    deep_stem = 16 * (16 * 96) + 16 * 96
    assert count_of(deep) == deep_stem + blocks + head == 565_872


@pytest.mark.parametrize(("stride", "row", "column"), [(1, 25, 38), (4, 6, 9), (16, 1, 2)])
def test_a_representation_pixel_changes_the_image_around_its_own_place(stride, row, column):
    network = attacker(image_size=64, width=16, num_blocks=1)
    x = representations(64, stride, count=1)
    variables = randomised(jax.eval_shape(network.init, jax.random.key(0), x))
    changed = x.at[0, row, column].add(3.0)
    apply = jax.jit(network.apply)
    difference = apply(variables, changed) - apply(variables, x)
    # One block and the head are three 3 x 3 convolutions at a quarter of the image's size.
    rows, columns = (
        {p // 4 for p in np.flatnonzero(np.any(difference[0] != 0, axis=others)).tolist()}
        for others in [(1, 2), (0, 2)]
    )
    for found, place in [(rows, row), (columns, column)]:
        first, last = place * stride // 4, ((place + 1) * stride - 1) // 4
        assert found == set(range(first - 3, last + 4))


@pytest.mark.parametrize("stride", [1, 16])
def test_gradients_are_finite_and_reach_every_parameter(stride):
    x = representations(32, stride)
    for network in (cloud_nn(7, 32, width=8), attacker(32, width=8, num_blocks=1)):
        initial = jax.jit(network.init)(jax.random.key(0), x)

        @jax.jit
        @jax.grad
        def gradient_of(variables, network=network):
            return jnp.mean(jnp.square(network.apply(variables, x) - 0.5))

        for variables in (initial, randomised(initial)):
            gradients = jax.tree.leaves(gradient_of(variables))
            assert all(np.isfinite(leaf).all() for leaf in gradients)
        # The last ones are those of the random parameters: at zero, some are zero on purpose.
        assert all(np.abs(leaf).max() > 0 for leaf in gradients)


@pytest.mark.parametrize("stride", [2, 16])
def test_the_strong_attacker_starts_at_no_correction_and_uses_the_estimate(stride):
    network, x = StrongAttacker(32), representations(32, stride)
    estimate = jnp.full((len(x), 32, 32, 3), 0.3)
    variables = jax.jit(network.init)(jax.random.key(0), x, estimate)
    assert not np.any(network.apply(variables, x, estimate))
    variables = randomised(variables)
    apply = jax.jit(network.apply)
    correction = apply(variables, x, estimate)
    assert correction.shape == (len(x), 32, 32, 3)
    assert np.isfinite(correction).all()
    assert np.abs(correction - apply(variables, x, estimate + 0.1)).max() > 1e-3


# 224 pixels make more positions than can all look at one another.
@pytest.mark.parametrize("size", [64, 224])
def test_attention_lets_every_position_see_every_other(size):
    network, x = StrongAttacker(size), representations(size, 4, count=1)
    estimate = jnp.zeros((1, size, size, 3))
    variables = randomised(jax.eval_shape(network.init, jax.random.key(0), x, estimate))
    apply = jax.jit(network.apply)
    far = x.at[0, 0, 0].add(3.0)
    difference = apply(variables, far, estimate) - apply(variables, x, estimate)
    assert np.abs(difference[0, -4:, -4:]).max() > 0


def test_blocks_of_equal_positions_are_looked_at_like_each_of_them():
    network, blocks = (
        Attention(width=4, num_heads=2),
        jax.random.normal(jax.random.key(0), (20, 20, 4)),
    )
    x = jnp.repeat(jnp.repeat(blocks, 2, axis=0), 2, axis=1)[None]  # 1,600 positions are too many
    params = randomised(jax.eval_shape(network.init, jax.random.key(0), x))["params"]
    params = {**params, "places": jnp.zeros((1600, 4))}
    few = {**params, "places": jnp.zeros((400, 4))}
    found = network.apply({"params": params}, x)[0, ::2, ::2]
    expected = network.apply({"params": few}, blocks[None])[0]
    # Float32: sums of 1,600 products in one order and of 400 in another.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_attention_by_hand():
    network = Attention(width=4, num_heads=1)
    x = jnp.arange(16, dtype=jnp.float32).reshape(1, 2, 2, 4) ** 1.5
    variables = randomised(jax.eval_shape(network.init, jax.random.key(0), x))
    params = jax.tree.map(np.asarray, variables["params"])
    tokens = np.asarray(x).reshape(4, 4)
    normal = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-6)
    normal = normal * params["LayerNorm_0"]["scale"] + params["LayerNorm_0"]["bias"]
    joint, out = params["Dense_0"], params["Dense_1"]
    query, key, value = np.split(
        (normal + params["places"]) @ joint["kernel"] + joint["bias"], 3, axis=1
    )
    scores = np.exp(query @ key.T / 2)
    found = scores / scores.sum(1, keepdims=True) @ value
    expected = tokens + found @ out["kernel"] + out["bias"]
    # Float32 against float64: exponentials of sums of a few products.
    np.testing.assert_allclose(network.apply(variables, x)[0].reshape(4, 4), expected, rtol=1e-3)


def test_values_that_noise_made_negative_count_like_others():
    x = np.abs(representations(32, 4)) * 10
    grid = WorkingGrid(8, 32)
    variables = grid.init(jax.random.key(0), x)  # whose biases are zero
    np.testing.assert_array_equal(grid.apply(variables, -x), -grid.apply(variables, x))
    assert np.isfinite(jax.grad(lambda x: grid.apply(variables, x).sum())(0 * x)).all()


# The cloud finds the working grid without the images' size.


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
