"""Folding and unfolding by hand, and padding against the convolution that it stands for."""

import jax
import numpy as np
import pytest

from privynet_jax.images.depth_and_space import depth_to_space, same_padded, space_to_depth


@pytest.mark.parametrize(("ratio", "channels"), [(1, 3), (2, 3), (4, 1), (3, 5)])
def test_unfolding_undoes_folding(ratio, channels):
    x = np.random.default_rng(0).random((2, 2 * ratio, 5 * ratio, channels), np.float32)
    folded = space_to_depth(x, ratio)
    assert folded.shape == (2, 2, 5, ratio * ratio * channels)
    np.testing.assert_array_equal(depth_to_space(folded, channels), x)


def test_order_by_hand():
    # One image of 2 x 4 pixels with two channels: the value 10 * pixel + channel, pixels row-wise.
    x = (10 * np.arange(8).reshape(1, 2, 4, 1) + np.arange(2)).astype(np.float32)
    # The left 2 x 2 block holds the pixels 0, 1 and, below them, 4, 5; the channel runs fastest.
    left, right = space_to_depth(x, 2)[0, 0]
    assert left.tolist() == [0, 1, 10, 11, 40, 41, 50, 51]
    assert right.tolist() == [20, 21, 30, 31, 60, 61, 70, 71]


def _convolve(x, kernel, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=dimensions)


@pytest.mark.parametrize("margin", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (2, 7), (7, 7)])
def test_padding_is_that_of_a_same_convolution(size, margin):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, *size, 3), np.float32)
    kernel = rng.standard_normal((2 * margin + 1, 2 * margin + 1, 3, 4), np.float32)
    padded, padding = same_padded(x, margin)
    # Sums of at most 75 products in float32, in another order.
    expected = _convolve(x, kernel, "SAME")
    np.testing.assert_allclose(_convolve(padded, kernel, padding), expected, atol=2e-5)
    # Only what is smaller than the kernel is padded beforehand.
    assert (padding == "VALID") == (min(size) < 2 * margin + 1)
