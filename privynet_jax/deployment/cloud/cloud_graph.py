"""The cloud NN as an ONNX file without weights, which are inputs beside the representations.

    data = cloud_graph((16, 16, 8))

It fits classifiers of any width and any number of classes, and lies in packages: a device runs no
program that came from the cloud, only one that it brought along, on numbers that came from there.
It is another implementation of `networks.CloudNN`, and tests compare the two.
"""

import numpy as np

from privynet_jax.deployment.cloud.cloud_parameters import parameter_shapes
from privynet_jax.platform.onnx_files.onnx_graph import OnnxGraph
from privynet_jax.platform.onnx_files.onnx_layers import OnnxLayers
from privynet_jax.platform.onnx_files.onnx_run import LOGITS, REPRESENTATIONS
from privynet_jax.training.models.grid_sizes import folding_of


def cloud_graph(shape: tuple[int, ...]) -> bytes:
    """Returns the file: representations, float32 [N, h, w, d], and parameters, to logits."""
    graph, side, depth = OnnxGraph(), shape[0], shape[-1]
    sizes = parameter_shapes(shape, num_classes=2, width=1)
    layers, (folding, unfolding) = OnnxLayers(graph, {n: n for n in sizes}), folding_of(side)
    x = layers.folded(layers.compressed(REPRESENTATIONS), side, depth, folding)
    x = layers.dense(x, "WorkingGrid_0/stem")
    x = layers.unfolded(x, side, unfolding)
    x = layers.residual(layers.channels_first(x), "ResidualBlock_0")
    x = layers.convolved(graph.add("Relu", x), "Conv_0", strides=(2, 2))
    x = layers.residual(x, "ResidualBlock_1")
    x = graph.add("ReduceMean", x, axes=(2, 3), keepdims=0)
    layers.dense(layers.normalised(x, "LayerNorm_0"), "Dense_0", to_name=LOGITS)
    inputs = {  # of any size: of classifiers of any width
        name: (np.float32, tuple(f"{name} {axis}" for axis in range(len(own))))
        for name, own in sizes.items()
    }
    representations = {REPRESENTATIONS: (np.float32, ("N", *shape))}
    return graph.model(
        "cloud_nn", representations | inputs, {LOGITS: (np.float32, ("N", "classes"))}
    )
