"""The cloud NN as an ONNX file without weights, which are inputs beside the representations.

    data = cloud_graph((16, 16, 8))

It fits classifiers of any width and any number of classes, and lies in packages: a device runs no
program that came from the cloud, only one that it brought along, on numbers that came from there.
It is another implementation of `networks.CloudNN`, and tests compare the two.
"""

import numpy as np

from privynet_jax.deployment.cloud.cloud_parameters import parameter_shapes
from privynet_jax.platform.onnx_files.onnx_graph import OnnxGraph
from privynet_jax.platform.onnx_files.onnx_run import LOGITS, REPRESENTATIONS
from privynet_jax.training.models.grid_sizes import folding_of

_EPSILON = 1e-6  # Flax's, of layer normalisation


def cloud_graph(shape: tuple[int, ...]) -> bytes:
    """Returns the file: representations, float32 [N, h, w, d], and parameters, to logits."""
    graph, side, depth = OnnxGraph(), shape[0], shape[-1]
    folding, unfolding = folding_of(side)
    size = graph.add("Log", graph.add("Add", graph.add("Abs", REPRESENTATIONS), np.float32(1)))
    x = graph.add("Mul", graph.add("Sign", REPRESENTATIONS), size)
    if folding > 1:
        grid = side // folding
        x = _reshaped(graph, x, (0, grid, folding, grid, folding, depth))
        x = graph.add("Transpose", x, perm=(0, 1, 3, 2, 4, 5))
        x = _reshaped(graph, x, (0, grid, grid, folding**2 * depth))
    x = _dense(graph, x, "WorkingGrid_0/stem")
    if unfolding > 1:
        x = _reshaped(graph, x, (0, side, side, unfolding, unfolding, -1))
        x = graph.add("Transpose", x, perm=(0, 1, 3, 2, 4, 5))
        x = _reshaped(graph, x, (0, side * unfolding, side * unfolding, -1))
    x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
    x = _residual(graph, x, "ResidualBlock_0")
    x = _convolved(graph, graph.add("Relu", x), "Conv_0", strides=(2, 2))
    x = _residual(graph, x, "ResidualBlock_1")
    x = graph.add("ReduceMean", x, axes=(2, 3), keepdims=0)
    norm = (f"params/LayerNorm_0/{kind}" for kind in ("scale", "bias"))
    x = graph.add("LayerNormalization", x, *norm, epsilon=_EPSILON)
    _dense(graph, x, "Dense_0", to_name=LOGITS)
    inputs = {  # of any size: of classifiers of any width
        name: (np.float32, tuple(f"{name} {axis}" for axis in range(len(sizes))))
        for name, sizes in parameter_shapes(shape, num_classes=2, width=1).items()
    }
    representations = {REPRESENTATIONS: (np.float32, ("N", *shape))}
    return graph.model(
        "cloud_nn", representations | inputs, {LOGITS: (np.float32, ("N", "classes"))}
    )


def _reshaped(graph: OnnxGraph, x: str, shape: tuple[int, ...]) -> str:
    """0 keeps a size, -1 is what is left."""
    return graph.add("Reshape", x, np.array(shape, np.int64))


def _dense(graph: OnnxGraph, x: str, name: str, **settings: str) -> str:
    x = graph.add("MatMul", x, f"params/{name}/kernel")
    return graph.add("Add", x, f"params/{name}/bias", **settings)


def _convolved(graph: OnnxGraph, x: str, name: str, **settings: object) -> str:
    kernel = graph.add("Transpose", f"params/{name}/kernel", perm=(3, 2, 0, 1))
    settings |= {"auto_pad": "SAME_UPPER"}
    return graph.add("Conv", x, kernel, f"params/{name}/bias", **settings)


def _residual(graph: OnnxGraph, x: str, name: str) -> str:
    y = _convolved(graph, graph.add("Relu", x), f"{name}/Conv_0")
    y = _convolved(graph, graph.add("Relu", y), f"{name}/Conv_1")
    return graph.add("Add", x, y)
