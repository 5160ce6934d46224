"""The VGGs against the paper's table and, at every cut, against an independent network.

Weights are random and go through files of torchvision's names, so that layouts and input transforms
are tested with them.
"""

import math

import jax
import numpy as np
import onnxruntime
import pytest
from support import weight_samples as samples
from support.reference_vgg import reference_trunk, torchvision_input

from privynet_jax.backbone.backbones import BACKBONES, VGG11, VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.onnx_model import onnx_model
from privynet_jax.backbone.split import activations, apply, local_params, made_up_params
from privynet_jax.backbone.topology import Topology, all_channels, local_cost
from privynet_jax.backbone.weights.sources import check_source, load_weights
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float

# Simonyan and Zisserman, arXiv:1409.1556, table 1, columns A, B, D and E.
COLUMNS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}
# Parameters of the convolutions, as torchvision's `features` count them.
PARAMETERS = {"vgg11": 9_220_480, "vgg13": 9_404_992, "vgg16": 14_714_688, "vgg19": 20_024_384}
NAMES = sorted(COLUMNS)


def pooled_before(name):
    """Indices of the convolutions that a max-pooling precedes."""
    steps = COLUMNS[name].split()
    return [i - steps[:i].count("M") for i in range(len(steps)) if steps[i - 1 : i] == ["M"]]


def saved(folder, name, *, with_norms=False):
    """A file of random weights with torchvision's names, and the layers in it."""
    layers = samples.random_layers(vgg=name)
    write = samples.torchvision_bn_tensors if with_norms else samples.torchvision_tensors
    path = samples.write_safetensors(folder / f"{name}.safetensors", write(layers, vgg=name))
    return path, layers


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, tmp_path_factory):
    """A VGG's name, its weights as they were loaded, and the layers that were written."""
    path, layers = saved(tmp_path_factory.mktemp("weights"), request.param)
    weights = load_weights(str(path), cache_dir=path.parent, backbone=request.param)
    path.unlink()
    return request.param, weights, layers


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_those_of_the_paper(name):
    backbone, stride, widths = BACKBONES[name], 1, []
    for step in COLUMNS[name].split():
        if step == "M":
            stride *= 2
        else:
            widths.append((int(step), stride))
    assert [(cut.channels, cut.stride) for cut in backbone.cuts] == widths
    assert [cut.number for cut in backbone.cuts] == list(range(1, len(widths) + 1))
    assert len(backbone.cuts) == int(name.removeprefix("vgg")) - 3
    assert {cut.name for cut in backbone.cuts} == samples.positions(name).keys()
    sizes = [math.prod(layer.kernel) + layer.out_channels for layer in backbone.convolutions()]
    assert sum(sizes) == PARAMETERS[name]


@pytest.mark.parametrize("size", [16, 36])
def test_networks_match_numpy_at_every_cut(loaded, size):
    """Of 36 pixels the fourth block gets an odd side; the last one is smaller than its kernels."""
    name, weights, layers = loaded
    images = np.random.default_rng(0).uniform(0, 1, (1, size, size, 3)).astype(np.float32)
    numbers = range(1, len(weights.backbone.cuts) + 1)
    found = activations(weights.backbone, weights.params, images, numbers)
    expected = reference_trunk(
        list(layers.values()), torchvision_input(images), pooled_before=pooled_before(name)
    )
    for number, reference in zip(numbers, expected, strict=True):
        # float32 sums of up to 4608 products over 16 layers; a wrong pooling or order gives 1.
        error = np.abs(found[number] - reference).max() / reference.max()
        assert error < 1e-4, (name, number)
        assert found[number].shape == reference.shape


def test_cuts_can_be_released_by_device_and_cache_alike(loaded):
    """The first one, the last, and those right behind a pooling."""
    name, weights, _ = loaded
    backbone, params = weights.backbone, weights.params
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    numbers = [1, *(place + 1 for place in pooled_before(name)), len(backbone.cuts)]
    whole = activations(backbone, params, as_float(images), numbers)
    union = dict.fromkeys(whole, (5, 0))
    cached = jax.jit(extractor(backbone, union))(params, as_float(images))
    for number, activation in whole.items():
        topology = Topology(number, (5, 0), backbone.name)
        stored = local_params(params, topology)
        expected = np.asarray(activation)[..., [5, 0]]
        model = onnx_model(topology, stored, (1.0, 1.0), 16)
        for released in (
            apply(topology, stored, as_float(images)),
            onnxruntime.InferenceSession(model).run(None, {"images": images})[0],
            cached[number],
        ):
            # The same float32 sums in another order.
            np.testing.assert_allclose(released, expected, atol=1e-4 * expected.max())
        assert released.shape == (2, *topology.representation_shape(16))
        kept = {group: kinds for group, kinds in stored.items() if group != "preprocessing"}
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(kept))
        assert local_cost(topology, 16).param_bytes == nbytes


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_s_files_with_norms_are_told_apart(name, tmp_path):
    path, layers = saved(tmp_path, name, with_norms=True)
    weights = load_weights(str(path), cache_dir=tmp_path, backbone=None)
    assert weights.layout == f"torchvision's VGG{name[3:]} with batch normalisation"
    assert weights.backbone is BACKBONES[name]
    assert weights.params.keys() == {"preprocessing", *layers}


def test_another_backbone_s_weights_are_refused(tmp_path):
    path, _ = saved(tmp_path, "vgg11")
    with pytest.raises(UserError, match=r"holds VGG11, and the backbone is vgg16; give weights of"):
        load_weights(str(path), cache_dir=tmp_path)
    for source in ("embedded", "keras"):
        with pytest.raises(UserError, match=r"which are VGG16's, .* vgg19; .* torchvision's"):
            check_source(source, "vgg19")
        with pytest.raises(UserError, match=r"which are VGG16's, .* vgg19; .* torchvision's"):
            load_weights(source, cache_dir=tmp_path, backbone="vgg19")


def test_what_a_backbone_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"num_layers is 9; .* integers 1 to 8; .*VGG11"):
        Topology(9, (0,), "vgg11")
    with pytest.raises(UserError, match="'vgg12'; allowed are vgg11, vgg13, vgg16, vgg19"):
        Topology(1, (0,), "vgg12")
    with pytest.raises(UserError, match="channels contain 128"):
        Topology(2, (128,), "vgg11")
    assert len(all_channels([8, 2], VGG11)[2]) == 128
    with pytest.raises(UserError, match="no layer is given; allowed are the integers 1 to 13"):
        all_channels([], VGG16)


def test_made_up_parameters_keep_activations_alive():
    params = made_up_params(VGG11, 8)
    images = np.random.default_rng(0).uniform(0, 1, (1, 32, 32, 3)).astype(np.float32)
    [last] = activations(VGG11, params, images, [8]).values()
    assert 1e-2 < float(np.abs(last).mean()) < 1e2
