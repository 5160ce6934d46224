"""How families of weight files name, order and normalise a backbone's tensors, as plain tables.

A file is recognised by its tensors' names here and converted accordingly.

    layout = recognise(tensors.keys())
    layout.title                         # "torchvision's VGG16 with batch normalisation"
    layout.names["conv1_1"]              # ("features.0.weight", "features.0.bias")
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.backbones import BACKBONES, VGG16, Backbone

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which torchvision's VGGs keep


def _input_transform(
    order: Sequence[int], scale: Sequence[float], shift: Sequence[float]
) -> dict[str, np.ndarray]:
    """RGB images in [0, 1] are reordered, by indices into RGB, then scaled, then shifted."""
    return {
        "channel_order": np.asarray(order, np.int32),
        "scale": np.asarray(scale, np.float32),
        "shift": np.asarray(shift, np.float32),
    }


NO_TRANSFORM = _input_transform((0, 1, 2), (1.0,) * 3, (0.0,) * 3)
# Keras ported VGG16 with Caffe's transform: BGR in 0..255 minus ImageNet's mean colour.
KERAS_INPUT = _input_transform((2, 1, 0), (255.0,) * 3, (-103.939, -116.779, -123.68))

# torchvision's models read (x - mean) / deviation of RGB in [0, 1], channel by channel.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_INPUT = _input_transform(
    (0, 1, 2),
    [1 / deviation for deviation in _DEVIATION],
    [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)],
)
# Of its VGG16_Weights.IMAGENET1K_FEATURES, Caffe's numbers: (x - mean) / deviation of 1 / 255.
FEATURES_INPUT = _input_transform(
    (0, 1, 2), (255.0,) * 3, [-255 * mean for mean in (0.48235, 0.45882, 0.40784)]
)
# What may be said of weights whose transform nothing tells.
INPUT_TRANSFORMS = {
    "torchvision": TORCHVISION_INPUT,
    "caffe_rgb": FEATURES_INPUT,
    "caffe_bgr": KERAS_INPUT,
    "none": NO_TRANSFORM,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TensorLayout:
    """How one family of weight files stores a backbone, and what input it expects."""

    backbone: Backbone
    title: str  # what the family is called in messages
    names: Mapping[str, tuple[str, str]]  # layer name -> tensor names of kernel and bias
    kernel_to_hwio: tuple[int, int, int, int]  # axes by which `np.transpose` makes a kernel HWIO
    input: Mapping[str, np.ndarray]  # the input transform that the weights were trained with
    # Layer name -> scale, offset, mean, variance of the batch normalisation behind it, if any.
    norms: Mapping[str, tuple[str, str, str, str]] = dataclasses.field(default_factory=dict)
    # Other tensors, such as a classifier's; an entry with "/" at its end is a beginning of names.
    ignored: frozenset[str] = frozenset()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape that each needed tensor must have in the file, by its name there."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.backbone.convolutions():
            kernel, bias = self.names[layer.name]
            stored_axes = np.argsort(self.kernel_to_hwio)
            shapes[kernel] = tuple(layer.kernel[axis] for axis in stored_axes)
            for vector in (bias, *self.norms.get(layer.name, ())):
                shapes[vector] = (layer.out_channels,)
        return shapes

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Returns those names that no backbone of this family has."""
        needed = self.shapes()
        groups = tuple(name for name in self.ignored if name.endswith("/"))
        return [
            name
            for name in names
            if name not in needed and name not in self.ignored and not name.startswith(groups)
        ]


def recognise(names: Collection[str], backbone: Backbone | None = None) -> TensorLayout | None:
    """Returns the layout with the fewest missing and unknown names; None where no name is known.

    So a file with a few faults is still told apart from one of another family. Where a backbone is
    expected, a layout of another one has to fit without any fault.
    """
    given = set(names)

    def misfits(layout: TensorLayout) -> int:
        return len(layout.shapes().keys() - given) + len(layout.unknown(given))

    candidates = [layout for layout in LAYOUTS if layout.shapes().keys() & given]
    best = min(candidates, key=misfits, default=None)
    if best and backbone not in (None, best.backbone) and misfits(best):
        expected = [layout for layout in candidates if layout.backbone == backbone]
        return min(expected, key=misfits, default=None)
    return best


def _patterned(
    title: str, kernel: str, bias: str, ignored: Iterable[str], **others: Any
) -> TensorLayout:
    """A layout of Keras' VGG16, or of what `others` say, from patterns of names.

    They hold {name}, such as conv1_2, {layer}, such as block1_conv2, or {numbered}, conv2d_1.
    """
    given = {"backbone": VGG16, "input": KERAS_INPUT, "kernel_to_hwio": (0, 1, 2, 3), **others}
    names = {}
    for index, convolution in enumerate(given["backbone"].convolutions()):
        spelt = {
            "name": convolution.name,
            "layer": convolution.name.replace("conv", "block").replace("_", "_conv"),
            "numbered": f"conv2d_{index}" if index else "conv2d",
        }
        names[convolution.name] = (kernel.format(**spelt), bias.format(**spelt))
    return TensorLayout(title=title, names=names, ignored=frozenset(ignored), **given)


def _keras_h5_family() -> Iterator[TensorLayout]:
    """The spellings of Keras' older HDF5 files."""
    spellings = (
        ("{layer}/{layer}_W_1:0", "{layer}/{layer}_b_1:0", "published by Keras"),
        ("{layer}/{layer}/kernel:0", "{layer}/{layer}/bias:0", "written by Keras 2"),
        ("{layer}/{layer}/kernel", "{layer}/{layer}/bias", "written by Keras 3"),
    )
    for *pair, writer in spellings:
        for group, note in (("", ""), ("model_weights/", " (whole model)")):
            kernel, bias = (group + name for name in pair)
            top = [x.format(layer=y) for y in ("fc1", "fc2", "predictions") for x in (kernel, bias)]
            title = f"Keras' VGG16 in HDF5, as {writer}{note}"
            yield _patterned(title, kernel, bias, [*top, "optimizer_weights/"])


def _torchvision(backbone: Backbone, with_norms: bool) -> TensorLayout:
    """Numbers a VGG's layers as torchvision does: ReLUs, norms and pooling have positions too."""
    names, norms, counters = {}, {}, set()
    position, stride = 0, 1
    for layer in backbone.convolutions():
        position += layer.stride > stride  # the pooling between two blocks
        stride = layer.stride
        names[layer.name] = (f"features.{position}.weight", f"features.{position}.bias")
        if with_norms:
            position += 1
            kinds = ("weight", "bias", "running_mean", "running_var")
            norms[layer.name] = tuple(f"features.{position}.{kind}" for kind in kinds)
            counters.add(f"features.{position}.num_batches_tracked")
        position += 2  # past the ReLU
    # torchvision's own classifier, and what timm calls the same three layers.
    dense = [f"classifier.{index}" for index in (0, 3, 6)]
    dense += ["pre_logits.fc1", "pre_logits.fc2", "head.fc"]
    top = {f"{layer}.{kind}" for layer in dense for kind in ("weight", "bias")}
    note = " with batch normalisation" if with_norms else ""
    return TensorLayout(
        backbone=backbone,
        title=f"torchvision's {backbone.title}{note}",
        names=names,
        kernel_to_hwio=(2, 3, 1, 0),
        input=TORCHVISION_INPUT,
        norms=norms,
        ignored=frozenset(top | counters),
    )


# The classifier that the embedded file has on its unchanged ImageNet trunk.
_EMBEDDED_HEAD = [
    *(f"functional_1/dense_{layer}/" for layer in ("1", "1_2", "2_1", "3_1")),
    *(f"functional_1/batch_normalization_{layer}/" for layer in ("1", "1_2")),
    *("const_fold_opt__98", "const_starts__79", "const_ends__80", "Const__96"),
]
KERAS_ONNX = _patterned(
    "the embedded ONNX conversion of Keras' VGG16",
    "functional_1/{layer}_1/convolution/ReadVariableOp:0",
    "functional_1/{layer}_1/Squeeze:0",
    _EMBEDDED_HEAD,
    kernel_to_hwio=(2, 3, 1, 0),
)
# Keras 3's own format numbers layers by class, in the order of the model.
_TOP = [f"layers/{layer}/vars/{x}" for layer in ("dense", "dense_1", "dense_2") for x in (0, 1)]
KERAS_3 = _patterned(
    "Keras 3's VGG16 (.keras or .weights.h5)",
    "layers/{numbered}/vars/0",
    "layers/{numbered}/vars/1",
    [*_TOP, "optimizer/"],
)
# By the backbone's name; each of torchvision's VGGs exists with and without normalisation.
TORCHVISION = {name: _torchvision(vgg, with_norms=False) for name, vgg in BACKBONES.items()}
TORCHVISION_BN = {name: _torchvision(vgg, with_norms=True) for name, vgg in BACKBONES.items()}
LAYOUTS = (
    *(KERAS_ONNX, *_keras_h5_family(), KERAS_3),
    *(*TORCHVISION.values(), *TORCHVISION_BN.values()),
)


def own_layout(backbone: Backbone) -> TensorLayout:
    """Returns the layout of the project's own checkpoints, which store parameters as they are.

    Their input transform is stored too and takes the place of this one, which leaves images alone.
    """
    title, ignored = "privynet_jax's own checkpoint", [f"preprocessing/{x}" for x in NO_TRANSFORM]
    kernel, bias = "{name}/kernel", "{name}/bias"
    return _patterned(title, kernel, bias, ignored, backbone=backbone, input=NO_TRANSFORM)
