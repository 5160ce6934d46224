"""The published kernels, found again in every order of colours, and no others."""

import itertools

import numpy as np
import pytest
from support import weight_samples as samples

from privynet_jax.backbone.weights import sources
from privynet_jax.backbone.weights.checkpoint import save_checkpoint
from privynet_jax.backbone.weights.families import INPUT_TRANSFORMS
from privynet_jax.backbone.weights.published import published_kernels
from privynet_jax.errors import UserError


@pytest.fixture(scope="module")
def kernel(vgg_weights):
    """Keras' own conv1_1, which takes BGR."""
    return vgg_weights.params["conv1_1"]["kernel"]


def test_every_order_of_colours_is_told(kernel):
    for places in itertools.permutations(range(3)):
        expected = tuple((2, 1, 0)[place] for place in places)
        assert published_kernels(kernel[:, :, places])[:2] == (expected, False)
    trained = kernel + np.random.default_rng(0).normal(0, 0.02, kernel.shape)  # a tenth of them
    assert published_kernels(trained).order == (2, 1, 0)
    assert published_kernels(255 * kernel).factor == pytest.approx(255, rel=0.01)


def test_turned_kernels_are_told_and_others_are_not_these(kernel):
    for turned in (kernel[::-1], kernel[::-1, ::-1], kernel.transpose(1, 0, 2, 3)):
        assert published_kernels(turned)[:2] == ((2, 1, 0), True)
    stream = np.random.default_rng(1)
    others = [stream.normal(size=kernel.shape) for _ in range(20)]
    others += [kernel[..., stream.permutation(64)] for _ in range(20)]
    assert not any(map(published_kernels, [*others, 0 * kernel, kernel[..., :8]]))


def loaded(kernel, tmp_path, **options):
    layers = {**samples.constant_layers(), "conv1_1": (kernel, np.zeros(64, np.float32))}
    names = samples.torchvision_tensors(layers)
    top = {"classifier.0.weight": np.full((2, 2), np.nan, np.float32)}  # as torchvision's file
    path = samples.write_torch_zip(tmp_path / "vgg16.pth", names | top)
    return sources.load_weights(str(path), cache_dir=tmp_path, **options)


def test_files_of_torchvision_s_names_with_caffe_s_numbers(kernel, tmp_path, caplog):
    def transform(kernel, **options):
        weights = loaded(np.ascontiguousarray(kernel), tmp_path, **options)
        return weights.layout, weights.params["preprocessing"]

    title, found = transform(kernel[:, :, ::-1])
    assert title == "torchvision's VGG16 with Caffe's numbers, which take RGB"
    # (x - mean) / deviation, as torchvision writes IMAGENET1K_FEATURES' transform.
    mean, deviation = np.array([0.48235, 0.45882, 0.40784]), 0.00392156862745098
    colours = np.random.default_rng(0).uniform(size=(5, 3))
    given = colours[:, found["channel_order"]] * found["scale"] + found["shift"]
    np.testing.assert_allclose(given, (colours - mean) / deviation, rtol=1e-4, atol=1e-3)
    title, found = transform(kernel)
    assert title.endswith("take BGR")
    for name, values in INPUT_TRANSFORMS["caffe_bgr"].items():
        np.testing.assert_array_equal(found[name], values)
    title, found = transform(kernel[:, :, [1, 2, 0]])  # GRB: each mean goes with its colour
    np.testing.assert_allclose(found["shift"], [-116.779, -123.68, -103.939], rtol=1e-6)
    assert not caplog.records
    title, found = transform(kernel, input_transform="torchvision")  # whoever says so is believed
    assert title == "torchvision's VGG16"
    np.testing.assert_array_equal(found["shift"], INPUT_TRANSFORMS["torchvision"]["shift"])


def test_folders_converted_with_another_transform_are_warned_of(kernel, tmp_path, caplog):
    for number, transform in enumerate(("caffe_bgr", "torchvision")):
        weights = loaded(kernel, tmp_path, input_transform=transform)
        folder = tmp_path / transform
        save_checkpoint(folder, weights.params, weights.layout, weights.fingerprint, "vgg16")
        sources.load_weights(str(folder), cache_dir=tmp_path)
        assert len(caplog.records) == number
    assert "another input transform than theirs" in caplog.text
    with pytest.raises(UserError, match="carries its input transform; leave out --input_transform"):
        sources.load_weights(str(folder), cache_dir=tmp_path, input_transform="none")


def test_changed_kernels_are_warned_of_in_one_line_each(kernel, tmp_path, caplog):
    loaded(np.ascontiguousarray(kernel[:, ::-1]), tmp_path)
    loaded(255 * kernel, tmp_path)
    told = [record.getMessage() for record in caplog.records]
    assert "mirrored or transposed" in told[0]
    assert "times 255, so its input transform is unknown" in told[1]
    assert len(told) == 2


def test_the_embedded_weights_keep_their_own_transform(vgg_weights):
    assert "Caffe" not in vgg_weights.layout
    for name, values in INPUT_TRANSFORMS["caffe_bgr"].items():
        np.testing.assert_array_equal(vgg_weights.params["preprocessing"][name], values)
