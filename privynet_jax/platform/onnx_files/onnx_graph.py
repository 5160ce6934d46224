"""ONNX files, node by node: what networks are written with for devices.

    graph = OnnxGraph()
    x = graph.add("Relu", "images")
    graph.add("Mul", x, np.float32(2), to_name="doubled")
    kind = np.float32, ("N", 3)  # for any number N
    data = graph.model("double", {"images": kind}, {"doubled": kind})

No JAX here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Of 2021: whatever runs ONNX at all reads it.
OPSET, _IR_VERSION = 17, 8

# Name -> type and shape of an input or output, in which texts are sizes that may vary.
Described = Mapping[str, tuple[np.typing.DTypeLike, Sequence[int | str]]]


class OnnxGraph:
    """Collects operators, each of which names its output, and arrays."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []

    def add(self, kind: str, *inputs: str | np.ndarray, to_name: str = "", **settings: Any) -> str:
        """Adds an operator on outputs of others and arrays; returns its output's name.

        Arrays of float16 are stored so, and taken as float32.
        """
        names = [one if isinstance(one, str) else self._stored(np.asarray(one)) for one in inputs]
        output = to_name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], **settings))
        return output

    def constant(self, shape: Sequence[int], value: float) -> str:
        """Adds a float32 array of one value everywhere, which takes no room; returns its name."""
        of_one = numpy_helper.from_array(np.float32([value]))
        return self.add("ConstantOfShape", np.array(shape, np.int64), value=of_one)

    def _stored(self, array: np.ndarray) -> str:
        name = f"array_{len(self._arrays)}"
        self._arrays.append(numpy_helper.from_array(array.copy("C"), name))
        return self.add("Cast", name, to=TensorProto.FLOAT) if array.dtype == np.float16 else name

    def model(self, name: str, inputs: Described, outputs: Described) -> bytes:
        """Returns the file, once ONNX's own checks have passed."""
        graph = helper.make_graph(self._nodes, name, _infos(inputs), _infos(outputs), self._arrays)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _infos(described: Described) -> list[Any]:
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
        for name, (kind, shape) in described.items()
    ]
