"""A local NN as one ONNX file: weights, input transform and scales are in it.

    data = onnx_model(topology, local_params(weights.params, topology), scales, image_size=32)

Devices run it without JAX. It is another implementation of `split.local_nn`, in another layout, and
tests compare the two.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.split import Params
from privynet_jax.backbone.topology import Topology

# Of 2021: whatever runs ONNX at all reads it.
OPSET, _IR_VERSION = 17, 8
IMAGES, REPRESENTATIONS = "images", "representations"


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
    backbone, transform = backbone_named(topology.backbone), params["preprocessing"]
    graph, stride = _Graph(), 1
    x = graph.add("Gather", IMAGES, np.asarray(transform["channel_order"], np.int32), axis=3)
    x = graph.add("Cast", x, to=TensorProto.FLOAT)
    x = graph.add("Mul", x, np.float32(transform["scale"]) / np.float32(255))
    x = graph.add("Add", x, np.float32(transform["shift"]))
    x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
    for layer in backbone.convolutions(topology.num_layers):
        if layer.stride > stride:
            x = graph.add("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
            stride = layer.stride
        kernel, bias = (np.asarray(params[layer.name][kind]) for kind in ("kernel", "bias"))
        x = graph.add("Conv", x, kernel.transpose(3, 2, 0, 1), bias, pads=(1, 1, 1, 1))
        x = graph.add("Relu", x)
    x = graph.add("Transpose", x, perm=(0, 2, 3, 1))
    graph.add("Mul", x, np.float32(scales), to_name=REPRESENTATIONS)
    return graph.model((image_size, image_size, 3), topology.representation_shape(image_size))


class _Graph:
    """Collects nodes, each of which names its output, and arrays."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []

    def add(self, kind: str, *inputs: str | np.ndarray, to_name: str = "", **settings: Any) -> str:
        """Adds an operator on outputs of others and arrays; returns its output's name."""
        names = [one if isinstance(one, str) else self._stored(one) for one in inputs]
        output = to_name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], **settings))
        return output

    def _stored(self, array: np.ndarray) -> str:
        name = f"array_{len(self._arrays)}"
        self._arrays.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self.add("Cast", name, to=TensorProto.FLOAT) if array.dtype == np.float16 else name

    def model(self, images: Sequence[int], representations: Sequence[int]) -> bytes:
        """Returns the file; for any number of images."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "local_nn",
            [info(IMAGES, TensorProto.UINT8, ["N", *images])],
            [info(REPRESENTATIONS, TensorProto.FLOAT, ["N", *representations])],
            self._arrays,
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
