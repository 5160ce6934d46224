"""How families of weight files name, order and normalise a backbone's tensors, as plain tables.

`weights` recognises a file by its tensors' names here and converts it accordingly. A layout also
says which input transform its family's weights were trained with, so nobody has to remember it.

    layout = recognise(tensors.keys())
    layout.title                         # "torchvision's VGG16 with batch normalisation"
    layout.names["conv1_1"]              # ("features.0.weight", "features.0.bias")
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from privynet_jax.backbone.backbones import BACKBONES, VGG16, Backbone, Convolution

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which torchvision's VGGs keep


@dataclasses.dataclass(frozen=True)
class InputTransform:
    """What happens to RGB images in [0, 1] before the first convolution.

    Attributes:
        channel_order: the network's input channels as indices into RGB.
        scale: factor per input channel, applied after reordering.
        shift: added per input channel after scaling.
    """

    channel_order: tuple[int, int, int]
    scale: tuple[float, float, float]
    shift: tuple[float, float, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the transform as the parameters' "preprocessing" entry."""
        return {
            "channel_order": np.asarray(self.channel_order, np.int32),
            "scale": np.asarray(self.scale, np.float32),
            "shift": np.asarray(self.shift, np.float32),
        }


# Keras ported VGG16 with Caffe's transform: BGR in 0..255 minus ImageNet's mean colour.
KERAS_INPUT = InputTransform((2, 1, 0), (255.0, 255.0, 255.0), (-103.939, -116.779, -123.68))

# torchvision's models read (x - mean) / deviation of RGB in [0, 1], channel by channel.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_INPUT = InputTransform(
    (0, 1, 2),
    tuple(1 / deviation for deviation in _DEVIATION),
    tuple(-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)),
)


@dataclasses.dataclass(frozen=True)
class TensorLayout:
    """How one family of weight files stores a backbone, and what input it expects.

    Attributes:
        backbone: whose tensors they are.
        title: what the family is called in messages.
        names: layer name -> (kernel's tensor name, bias's tensor name).
        kernel_to_hwio: axes that `np.transpose` needs to make a stored kernel HWIO.
        input: the input transform that the family's weights were trained with.
        norms: layer name -> (scale, offset, mean, variance) of the batch normalisation behind the
            convolution; empty where the family has none.
        ignored: further tensors of a complete file, such as a classifier's; an entry ending in "/"
            stands for all names that begin with it.
    """

    backbone: Backbone
    title: str
    names: Mapping[str, tuple[str, str]]
    kernel_to_hwio: tuple[int, int, int, int]
    input: InputTransform
    norms: Mapping[str, tuple[str, str, str, str]] = dataclasses.field(default_factory=dict)
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
    """Returns the layout that fits a file's tensor names best; None where no name is known.

    The best fit has the fewest missing and unknown names, so that a file with a few faults is still
    told apart from one of another family. Where a backbone is expected, a layout of another one has
    to fit without any fault.
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


def _keras_name(layer: Convolution) -> str:
    """The layer's name in Keras: block1_conv2 for conv1_2."""
    return layer.name.replace("conv", "block").replace("_", "_conv")


def _keras_onnx() -> TensorLayout:
    prefixes = {
        layer.name: f"functional_1/{_keras_name(layer)}_1" for layer in VGG16.convolutions()
    }
    # The classifier that the embedded file has on its unchanged ImageNet trunk.
    head = [
        f"functional_1/{dense}/" for dense in ("dense_1", "dense_1_2", "dense_2_1", "dense_3_1")
    ]
    norms = ["functional_1/batch_normalization_1/", "functional_1/batch_normalization_1_2/"]
    constants = ["const_fold_opt__98", "const_starts__79", "const_ends__80", "Const__96"]
    return TensorLayout(
        backbone=VGG16,
        title="the embedded ONNX conversion of Keras' VGG16",
        names={
            name: (f"{prefix}/convolution/ReadVariableOp:0", f"{prefix}/Squeeze:0")
            for name, prefix in prefixes.items()
        },
        kernel_to_hwio=(2, 3, 1, 0),
        input=KERAS_INPUT,
        ignored=frozenset([*head, *norms, *constants]),
    )


def _keras_h5(group: str, kernel: str, bias: str, writer: str) -> TensorLayout:
    """One spelling of Keras' older HDF5 files; `kernel` and `bias` hold {layer}."""

    def pair(layer: str) -> tuple[str, str]:
        return group + kernel.format(layer=layer), group + bias.format(layer=layer)

    top = {name for dense in ("fc1", "fc2", "predictions") for name in pair(dense)}
    return TensorLayout(
        backbone=VGG16,
        title=f"Keras' VGG16 in HDF5, as {writer}",
        names={layer.name: pair(_keras_name(layer)) for layer in VGG16.convolutions()},
        kernel_to_hwio=(0, 1, 2, 3),
        input=KERAS_INPUT,
        ignored=frozenset({*top, "optimizer_weights/"}),
    )


def _keras_h5_family() -> Iterable[TensorLayout]:
    spellings = (
        ("{layer}/{layer}_W_1:0", "{layer}/{layer}_b_1:0", "published by Keras"),
        ("{layer}/{layer}/kernel:0", "{layer}/{layer}/bias:0", "written by Keras 2"),
        ("{layer}/{layer}/kernel", "{layer}/{layer}/bias", "written by Keras 3"),
    )
    for kernel, bias, writer in spellings:
        yield _keras_h5("", kernel, bias, writer)
        yield _keras_h5("model_weights/", kernel, bias, f"{writer} (whole model)")


def _keras_3() -> TensorLayout:
    """Keras 3's own format numbers layers by class, in the order of the model."""

    def pair(kind: str, index: int) -> tuple[str, str]:
        layer = f"layers/{kind}_{index}" if index else f"layers/{kind}"
        return f"{layer}/vars/0", f"{layer}/vars/1"

    top = {name for index in range(3) for name in pair("dense", index)}
    return TensorLayout(
        backbone=VGG16,
        title="Keras 3's VGG16 (.keras or .weights.h5)",
        names={
            layer.name: pair("conv2d", index) for index, layer in enumerate(VGG16.convolutions())
        },
        kernel_to_hwio=(0, 1, 2, 3),
        input=KERAS_INPUT,
        ignored=frozenset({*top, "optimizer/"}),
    )


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
    return TensorLayout(
        backbone=backbone,
        title=f"torchvision's {backbone.title}"
        + (" with batch normalisation" if with_norms else ""),
        names=names,
        kernel_to_hwio=(2, 3, 1, 0),
        input=TORCHVISION_INPUT,
        norms=norms,
        ignored=frozenset(top | counters),
    )


KERAS_ONNX = _keras_onnx()
KERAS_H5, *_OTHER_KERAS_H5 = _keras_h5_family()
KERAS_3 = _keras_3()
# By the backbone's name; each of torchvision's VGGs exists with and without normalisation.
TORCHVISION = {name: _torchvision(vgg, with_norms=False) for name, vgg in BACKBONES.items()}
TORCHVISION_BN = {name: _torchvision(vgg, with_norms=True) for name, vgg in BACKBONES.items()}
LAYOUTS = (
    *(KERAS_ONNX, KERAS_H5, *_OTHER_KERAS_H5, KERAS_3),
    *(*TORCHVISION.values(), *TORCHVISION_BN.values()),
)


def own_layout(backbone: Backbone) -> TensorLayout:
    """Returns the layout of the project's own checkpoints, which store parameters as they are.

    Their input transform is stored too and takes the place of this one, which leaves images alone.
    """
    return TensorLayout(
        backbone=backbone,
        title="privynet_jax's own checkpoint",
        names={
            layer.name: (f"{layer.name}/kernel", f"{layer.name}/bias")
            for layer in backbone.convolutions()
        },
        kernel_to_hwio=(0, 1, 2, 3),
        input=InputTransform((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        ignored=frozenset(f"preprocessing/{name}" for name in ("channel_order", "scale", "shift")),
    )
