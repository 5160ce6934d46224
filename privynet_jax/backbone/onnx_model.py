"""A local NN as one ONNX file: weights, input transform and scales are in it.

    data = onnx_model(topology, local_params(weights.params, topology), scales, image_size=32)

Devices run it without JAX. It is another implementation of `split.local_nn`, in another layout, and
tests compare the two.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from privynet_jax.backbone.backbones import Convolution, backbone_named
from privynet_jax.backbone.split import Params
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.families import NO_TRANSFORM
from privynet_jax.platform.onnx_files.onnx_graph import OnnxGraph
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, REPRESENTATIONS


def onnx_model(
    topology: Topology, params: Params, scales: Sequence[float], image_size: int
) -> bytes:
    """Returns the model: images, uint8 [N, S, S, 3] RGB, to float32 [N, h, w, depth].

    Products are those of float32, whatever the kernels and biases are stored as.

    Args:
        topology: of which backbone, and how far.
        params: as of `split.local_params`; those of float16 stay so in the file.
        scales: of each channel, by which representations are multiplied.
        image_size: S, side of the images in pixels.
    """

    def weights(graph: OnnxGraph, layer: Convolution) -> tuple[np.ndarray, ...]:
        kernel, bias = (np.asarray(params[layer.name][kind]) for kind in ("kernel", "bias"))
        return kernel.transpose(3, 2, 0, 1), bias

    return _model(topology, params["preprocessing"], weights, scales, image_size)


def timing_model(topology: Topology, image_size: int) -> bytes:
    """Returns a model that takes as long as a topology's, in a few kilobytes and without secrets.

    Every weight of a layer is the same, and keeps activations far from denormal numbers.
    """
    last, transform = topology.layer.convolutions[-1], NO_TRANSFORM

    def weights(graph: OnnxGraph, layer: Convolution) -> tuple[str, ...]:
        height, width, inner, outer = layer.kernel
        outer = topology.depth if layer == last else outer
        mean = 1 / (height * width * inner)
        return graph.constant((outer, inner, height, width), mean), graph.constant((outer,), 0.0)

    return _model(topology, transform, weights, [1.0] * topology.depth, image_size)


def _model(
    topology: Topology,
    transform: Mapping[str, Any],
    weights: Callable[[OnnxGraph, Convolution], Sequence[Any]],
    scales: Sequence[float],
    image_size: int,
) -> bytes:
    """By what gives a convolution's kernel [outer, inner, height, width] and its bias."""
    backbone = backbone_named(topology.backbone)
    graph, stride = OnnxGraph(), 1
    x = graph.add("Gather", IMAGES, np.asarray(transform["channel_order"], np.int32), axis=3)
    x = graph.add("Cast", x, to=TensorProto.FLOAT)
    x = graph.add("Mul", x, np.float32(transform["scale"]) / np.float32(255))
    x = graph.add("Add", x, np.float32(transform["shift"]))
    x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
    for layer in backbone.convolutions(topology.num_layers):
        if layer.stride > stride:
            x = graph.add("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
            stride = layer.stride
        x = graph.add("Conv", x, *weights(graph, layer), pads=(1, 1, 1, 1))
        x = graph.add("Relu", x)
    x = graph.add("Transpose", x, perm=(0, 2, 3, 1))
    graph.add("Mul", x, np.float32(scales), to_name=REPRESENTATIONS)
    shape = topology.representation_shape(image_size)
    return graph.model(
        "local_nn",
        {IMAGES: (np.uint8, ("N", image_size, image_size, 3))},
        {REPRESENTATIONS: (np.float32, ("N", *shape))},
    )
