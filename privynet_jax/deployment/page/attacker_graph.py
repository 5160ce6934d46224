"""An attacker's inverse network as an ONNX file, so that a page can show what it rebuilds.

    data = attacker_graph(params, kernel, bias, shape=(16, 16, 8), image_size=32)

It is another implementation of `networks.StrongAttacker` with the linear estimate that it corrects,
and tests compare the two. No JAX here.
"""

from collections.abc import Mapping

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.onnx_files.onnx_graph import OnnxGraph
from privynet_jax.platform.onnx_files.onnx_layers import OnnxLayers
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, REPRESENTATIONS

_HEADS = 4
# Of the working grid; of larger ones attention looks at means of blocks.
_MOST_SIDE = 32


def attacker_graph(
    params: Mapping[str, np.ndarray],
    kernel: np.ndarray,
    bias: np.ndarray,
    shape: tuple[int, int, int],
    image_size: int,
) -> bytes:
    """Returns the file: representations, float32 [N, h, w, d], to images float32 [N, S, S, 3].

    Args:
        params: of the network, by their paths in Flax's tree, such as "params/head/bias".
        kernel: of the linear estimate, float32 [3, 3, d, values].
        bias: likewise, float32 [values].
        shape: (h, w, d) of one representation.
        image_size: S, side of the images in pixels.

    Raises:
        UserError: the images are larger than pages show.
    """
    check_size(shape, image_size)
    side, _, depth = shape
    layers = OnnxLayers(OnnxGraph(), params)
    graph, fine = layers.graph, side == image_size
    stride, width = (2, 64) if fine else (4, 96)
    grid = image_size // stride
    estimate = _estimate(layers, kernel, bias, side, image_size)
    folding, unfolding = max(1, side // grid), max(1, grid // side)
    x = layers.folded(layers.compressed(REPRESENTATIONS), side, depth, folding)
    x = layers.unfolded(layers.dense(x, "WorkingGrid_0/stem"), side // folding, unfolding)
    shown = layers.folded(graph.add("Sub", estimate, np.float32(0.5)), image_size, 3, stride)
    x = graph.add("Add", x, layers.dense(shown, "Dense_0"))
    blocks = sum(name.endswith("/Conv_0/kernel") for name in params)
    for number in range(blocks):
        y = layers.residual(layers.channels_first(x), f"ResidualBlock_{number}")
        x = layers.channels_last(y)
        if not fine:
            x = _attention(layers, x, f"Attention_{number}", grid, width)
    correction = layers.convolved(layers.channels_first(graph.add("Relu", x)), "head")
    correction = layers.unfolded(layers.channels_last(correction), grid, stride)
    rebuilt = graph.add("Add", estimate, correction)
    graph.add("Clip", rebuilt, np.float32(0), np.float32(1), to_name=IMAGES)
    return graph.model(
        "attacker",
        {REPRESENTATIONS: (np.float32, ("N", *shape))},
        {IMAGES: (np.float32, ("N", image_size, image_size, 3))},
    )


def check_size(shape: tuple[int, ...], image_size: int) -> None:
    """Raises UserError where images are larger than pages show; shapes are those of above."""
    if shape[0] < image_size > 4 * _MOST_SIDE:
        raise UserError(
            f"pages show what an attacker makes of pictures of up to {4 * _MOST_SIDE} pixels, and "
            f"the plan's have {image_size}; leave --with_attacker out"
        )


def _estimate(
    layers: OnnxLayers, kernel: np.ndarray, bias: np.ndarray, side: int, image_size: int
) -> str:
    """The linear estimate of images, as `linear_attack.reconstruct` makes it."""
    graph = layers.graph
    x = layers.channels_first(REPRESENTATIONS)
    x = graph.add("Conv", x, kernel.transpose(3, 2, 0, 1), bias, auto_pad="SAME_UPPER")
    return layers.unfolded(layers.channels_last(x), side, image_size // side)


def _attention(layers: OnnxLayers, x: str, name: str, grid: int, width: int) -> str:
    """`networks.Attention` on [N, grid, grid, width], where all positions are looked at."""
    graph, each = layers.graph, width // _HEADS
    tokens = layers.reshaped(x, (0, grid**2, width))
    tokens = layers.normalised(tokens, f"{name}/LayerNorm_0")
    tokens = graph.add("Add", tokens, layers.params[f"params/{name}/places"])
    mixed = layers.reshaped(layers.dense(tokens, f"{name}/Dense_0"), (0, grid**2, 3, _HEADS, each))
    query, key, value = (
        graph.add("Gather", mixed, np.array(which, np.int64), axis=2) for which in range(3)
    )  # [N, tokens, heads, each]
    query = graph.add("Mul", query, np.float32(each**-0.5))
    query = graph.add("Transpose", query, perm=(0, 2, 1, 3))
    key = graph.add("Transpose", key, perm=(0, 2, 3, 1))
    value = graph.add("Transpose", value, perm=(0, 2, 1, 3))
    weights = graph.add("Softmax", graph.add("MatMul", query, key), axis=-1)
    found = graph.add("Transpose", graph.add("MatMul", weights, value), perm=(0, 2, 1, 3))
    found = layers.dense(layers.reshaped(found, (0, grid, grid, width)), f"{name}/Dense_1")
    return graph.add("Add", x, found)
