"""The tables of tensor names against names written out by hand, and how a file is recognised."""

import numpy as np
import pytest
from support.weight_samples import (
    CONVOLUTIONS,
    constant_layers,
    keras_3_tensors,
    keras_tensors,
    torchvision_bn_tensors,
    torchvision_tensors,
)

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.weights import families
from privynet_jax.backbone.weights.families import LAYOUTS, recognise

LAYERS = constant_layers()
TORCHVISION, TORCHVISION_BN = (
    tables["vgg16"] for tables in (families.TORCHVISION, families.TORCHVISION_BN)
)
FAMILIES = {
    "published by Keras": keras_tensors(LAYERS),
    "by Keras 2": keras_tensors(LAYERS, "{0}/{0}/kernel:0", "{0}/{0}/bias:0"),
    "by Keras 3": keras_tensors(LAYERS, "{0}/{0}/kernel", "{0}/{0}/bias"),
    "by Keras 2 (whole model)": keras_tensors(
        LAYERS, "model_weights/{0}/{0}/kernel:0", "model_weights/{0}/{0}/bias:0"
    ),
    "Keras 3's VGG16": keras_3_tensors(LAYERS),
    "torchvision's VGG16": torchvision_tensors(LAYERS),
    "torchvision's VGG16 with batch normalisation": torchvision_bn_tensors(LAYERS),
}


@pytest.mark.parametrize(("title", "tensors"), FAMILIES.items(), ids=FAMILIES)
def test_each_family_is_recognised_with_all_names_and_shapes(title, tensors):
    layout = recognise(tensors.keys())
    assert title in layout.title
    assert layout.title.endswith(title) or title == "Keras 3's VGG16"
    assert layout.unknown(tensors) == []
    shapes = layout.shapes()
    assert shapes == {name: tensors[name].shape for name in shapes}


def test_layouts_differ_by_name_only():
    assert len({layout.title for layout in LAYOUTS}) == len(LAYOUTS)
    for layout in LAYOUTS:
        assert recognise(layout.shapes().keys()) is layout
        assert list(layout.names) == [layer.name for layer in layout.backbone.convolutions()]
        assert layout.backbone != VGG16 or list(layout.names) == list(CONVOLUTIONS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_a_file_with_faults_is_still_recognised(layout):
    names = list(layout.shapes())
    assert recognise([*names[3:], "stray", "other"]) is layout


@pytest.mark.parametrize("names", [[], ["conv1.weight", "layer1.0.conv1.weight"]])
def test_other_networks_are_not_recognised(names):
    assert recognise(names) is None


def test_a_complete_vgg16s_classifier_is_known_and_anything_else_is_not():
    top = ["classifier.0.weight", "classifier.6.bias", "head.fc.weight"]
    assert TORCHVISION.unknown(top) == []
    assert TORCHVISION.unknown(["classifier.1.weight", "features.1.weight"]) == [
        "classifier.1.weight",
        "features.1.weight",
    ]
    assert TORCHVISION_BN.unknown(["features.1.num_batches_tracked"]) == []
    assert TORCHVISION.unknown(["features.1.num_batches_tracked"]) != []
    keras_3 = families.KERAS_3
    assert keras_3.unknown(["layers/dense_2/vars/1", "optimizer/vars/0"]) == []
    assert keras_3.unknown(["layers/dense_3/vars/1"]) == ["layers/dense_3/vars/1"]


def test_input_transforms_are_the_published_ones():
    image = np.array([0.2, 0.5, 0.9])  # RGB
    keras = families.KERAS_INPUT
    found = image[keras["channel_order"]] * keras["scale"] + keras["shift"]
    # 255 * 0.9 - 103.939, 255 * 0.5 - 116.779, 255 * 0.2 - 123.68
    np.testing.assert_allclose(found, [125.561, 10.721, -72.68], rtol=1e-5)
    torchvision = families.TORCHVISION_INPUT
    found = image[torchvision["channel_order"]] * torchvision["scale"] + torchvision["shift"]
    # (0.2 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.9 - 0.406) / 0.225; float32 constants
    np.testing.assert_allclose(found, [-1.2445415, 0.19642857, 2.1955556], rtol=1e-5)
