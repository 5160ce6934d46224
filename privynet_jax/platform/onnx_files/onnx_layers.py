"""Layers of the networks that see representations, as ONNX: what Flax computes, node by node.

    layers = OnnxLayers(graph, params)  # "params/Conv_0/kernel" -> array, or name of an input
    x = layers.dense("representations", "WorkingGrid_0/stem")
    x = layers.residual(x, "ResidualBlock_0")

No JAX here.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from privynet_jax.platform.onnx_files.onnx_graph import OnnxGraph

_EPSILON = 1e-6  # Flax's, of layer normalisation


@dataclasses.dataclass(frozen=True, eq=False)
class OnnxLayers:
    """Adds layers to a graph, by their names in Flax's tree of parameters.

    Attributes:
        graph: that they are added to.
        params: "params/NAME/kernel" and so on -> array, or the name of an input that has it.
    """

    graph: OnnxGraph
    params: Mapping[str, str | np.ndarray]

    def compressed(self, x: str) -> str:
        """Sign times log(1 + magnitude)."""
        size = self.graph.add("Log", self.graph.add("Add", self.graph.add("Abs", x), np.float32(1)))
        return self.graph.add("Mul", self.graph.add("Sign", x), size)

    def reshaped(self, x: str, shape: tuple[int, ...]) -> str:
        """0 keeps a size, -1 is what is left."""
        return self.graph.add("Reshape", x, np.array(shape, np.int64))

    def folded(self, x: str, side: int, depth: int, block: int) -> str:
        """[N, side, side, depth] -> [N, side / block, side / block, block ** 2 * depth]."""
        if block == 1:
            return x
        grid = side // block
        x = self.reshaped(x, (0, grid, block, grid, block, depth))
        x = self.graph.add("Transpose", x, perm=(0, 1, 3, 2, 4, 5))
        return self.reshaped(x, (0, grid, grid, block**2 * depth))

    def unfolded(self, x: str, side: int, block: int) -> str:
        """[N, side, side, block ** 2 * depth] -> [N, side * block, side * block, depth]."""
        if block == 1:
            return x
        x = self.reshaped(x, (0, side, side, block, block, -1))
        x = self.graph.add("Transpose", x, perm=(0, 1, 3, 2, 4, 5))
        return self.reshaped(x, (0, side * block, side * block, -1))

    def channels_first(self, x: str) -> str:
        """[N, h, w, channels] -> [N, channels, h, w], as convolutions take it."""
        return self.graph.add("Transpose", x, perm=(0, 3, 1, 2))

    def channels_last(self, x: str) -> str:
        """[N, channels, h, w] -> [N, h, w, channels]."""
        return self.graph.add("Transpose", x, perm=(0, 2, 3, 1))

    def dense(self, x: str, name: str, to_name: str = "") -> str:
        """A matrix product and a bias."""
        x = self.graph.add("MatMul", x, self.params[f"params/{name}/kernel"])
        return self.graph.add("Add", x, self.params[f"params/{name}/bias"], to_name=to_name)

    def convolved(self, x: str, name: str, **settings: object) -> str:
        """A convolution on [N, channels, h, w], padded to the same size, and a bias."""
        kernel = self.graph.add(
            "Transpose", self.params[f"params/{name}/kernel"], perm=(3, 2, 0, 1)
        )
        settings |= {"auto_pad": "SAME_UPPER"}
        return self.graph.add("Conv", x, kernel, self.params[f"params/{name}/bias"], **settings)

    def residual(self, x: str, name: str) -> str:
        """`networks.ResidualBlock`, on [N, channels, h, w]."""
        y = self.convolved(self.graph.add("Relu", x), f"{name}/Conv_0")
        y = self.convolved(self.graph.add("Relu", y), f"{name}/Conv_1")
        return self.graph.add("Add", x, y)

    def normalised(self, x: str, name: str) -> str:
        """Layer normalisation along the last axis."""
        norm = (self.params[f"params/{name}/{kind}"] for kind in ("scale", "bias"))
        return self.graph.add("LayerNormalization", x, *norm, epsilon=_EPSILON)
