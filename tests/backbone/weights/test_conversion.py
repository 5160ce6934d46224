"""Conversion of tensors: every fault is named at once, and batch normalisation is folded in."""

import numpy as np
import pytest
from support import weight_samples as samples

from privynet_jax.backbone.weights import families
from privynet_jax.backbone.weights.conversion import StoredTensor, params_from_tensors
from privynet_jax.backbone.weights.families import KERAS_ONNX
from privynet_jax.errors import UserError

TORCHVISION, TORCHVISION_BN = (
    tables["vgg16"] for tables in (families.TORCHVISION, families.TORCHVISION_BN)
)


def stored(tensors):
    return {name: StoredTensor.of(array) for name, array in tensors.items()}


def test_batch_normalisation_is_folded_in():
    layers = samples.random_layers()
    tensors = samples.torchvision_bn_tensors(layers)
    params = params_from_tensors(stored(tensors), TORCHVISION_BN)
    x = np.linspace(-1, 1, 27).reshape(3, 3, 3)  # one window of the first convolution
    kernel, bias = layers["conv1_1"]
    before = np.tensordot(x, kernel.astype(np.float64), 3) + bias
    norm = [tensors[f"features.1.{k}"] for k in ("weight", "bias", "running_mean", "running_var")]
    scale, offset, mean, variance = (n.astype(np.float64) for n in norm)
    expected = (before - mean) / np.sqrt(variance + 1e-5) * scale + offset
    folded = params["conv1_1"]
    found = np.tensordot(x, folded["kernel"].astype(np.float64), 3) + folded["bias"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # kernels rounded to float32


def test_every_bad_tensor_is_named_at_once():
    tensors = {
        name: np.broadcast_to(np.float32(0.5), shape) for name, shape in KERAS_ONNX.shapes().items()
    }
    names = list(tensors)
    del tensors[names[0]], tensors[names[5]]
    tensors[names[2]] = tensors[names[2]][:-1]
    tensors[names[3]] = np.full_like(tensors[names[3]], np.nan)
    tensors[names[7]] = np.full_like(tensors[names[7]], np.inf)
    tensors[names[9]] = tensors[names[9]].astype(np.int32)
    tensors[names[11]] = np.full(tensors[names[11]].shape, 1e300)  # too large for float32
    tensors |= {"stray": np.ones(1), "hidden\x1b[2J\n": np.ones(1)}
    with pytest.raises(UserError) as error:
        params_from_tensors(stored(tensors), KERAS_ONNX, "a.onnx")
    message = str(error.value)
    assert message.startswith("a.onnx do not fit VGG16: ")
    assert f"missing {names[0]};" in message
    assert f"missing {names[5]};" in message
    assert f"{names[2]} has shape (63, 64, 3, 3), expected (64, 64, 3, 3)" in message
    assert f"{names[3]} holds NaN" in message
    assert f"{names[7]} holds NaN or infinite" in message
    assert f"{names[9]} has type int32" in message
    assert f"{names[11]} holds NaN or infinite" in message
    assert "unknown stray; unknown 'hidden\\x1b[2J\\n'" in message
    assert "\n" not in message
    assert sum(name in message for name in names) == 7


def test_transposed_kernels_and_other_depths_are_refused():
    tensors = samples.torchvision_tensors(samples.constant_layers())
    swapped = {k: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v for k, v in tensors.items()}
    with pytest.raises(UserError) as error:
        params_from_tensors(stored(swapped), TORCHVISION)
    assert str(error.value).count(" has shape (3, 3, ") == 13
    vgg19 = {f"features.{index}.weight": np.ones((1, 1)) for index in (30, 32, 34)}
    with pytest.raises(UserError, match=r"unknown features\.30\.weight; .*32\.weight; .*34"):
        params_from_tensors(stored(tensors | vgg19), TORCHVISION)


def test_damaged_batch_normalisation_is_refused():
    tensors = samples.torchvision_bn_tensors(samples.constant_layers())
    bad = tensors | {"features.4.running_var": np.full(64, -1, np.float32)}
    with pytest.raises(UserError, match=r"features\.4\.running_var holds negative variances"):
        params_from_tensors(stored(bad), TORCHVISION_BN)
    bad = tensors | {
        "features.1.weight": np.full(64, 3e38, np.float32),
        "features.0.weight": np.full((64, 3, 3, 3), 3e38, np.float32),
    }
    with pytest.raises(UserError, match=r"conv1_1 with its batch normalisation .* than float32"):
        params_from_tensors(stored(bad), TORCHVISION_BN)
