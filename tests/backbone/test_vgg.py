"""The trunk's contract; `test_backbones.py` has it against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.errors import UserError


def _smooth_images(count, size):
    """Low-frequency colour patterns: closer to photographs than white noise is."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:size, :size] / size
    waves = rng.uniform(0, 2 * np.pi, (count, 3, 1, 1)) + 2 * np.pi * (
        rng.integers(1, 4, (count, 3, 1, 1)) * x + rng.integers(1, 4, (count, 3, 1, 1)) * y
    )
    noise = rng.uniform(-0.1, 0.1, (count, 3, size, size))
    return np.clip(0.5 + 0.4 * np.sin(waves) + noise, 0, 1).transpose(0, 2, 3, 1).astype("float32")


@pytest.fixture(scope="module")
def random_params():
    variables = jax.jit(VGGTrunk(VGG16, 13).init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return variables["params"]


@pytest.mark.parametrize("num_layers", [2, 7])
def test_output_is_the_last_layer_before_pooling(random_params, num_layers):
    images = _smooth_images(1, 16)
    output, intermediates = VGGTrunk(VGG16, num_layers).apply({"params": random_params}, images)
    layer = VGG16.cuts[num_layers - 1]
    assert output.shape == (1, 16 // layer.stride, 16 // layer.stride, layer.channels)
    assert output.dtype == jnp.float32
    assert len(intermediates) == num_layers
    np.testing.assert_array_equal(output, intermediates[layer.number])


def test_parameter_count_is_vgg16s(random_params):
    convolutions = {name: p for name, p in random_params.items() if name != "preprocessing"}
    assert sum(leaf.size for leaf in jax.tree.leaves(convolutions)) == 14_714_688
    assert {name: p["kernel"].shape for name, p in convolutions.items()} == {
        layer.name: layer.kernel for layer in VGG16.convolutions()
    }


def test_preprocessing_comes_from_the_params(random_params):
    # A centre-tap identity kernel makes relu1_1's first channels the network's input itself.
    kernel = np.zeros((3, 3, 3, 64), np.float32)
    kernel[1, 1, [0, 1, 2], [0, 1, 2]] = 1
    params = {
        "preprocessing": {
            "channel_order": np.array([1, 2, 0], np.int32),
            "scale": np.array([2, 3, 4], np.float32),
            "shift": np.array([10, 20, -1], np.float32),
        },
        "conv1_1": {"kernel": kernel, "bias": np.zeros(64, np.float32)},
    }
    image = np.array([0.5, 0.25, 0.125], np.float32).reshape(1, 1, 1, 3)
    output, _ = VGGTrunk(VGG16, 1).apply({"params": params}, image)
    # 0.25 * 2 + 10, 0.125 * 3 + 20, 0.5 * 4 - 1: exact in float32.
    np.testing.assert_array_equal(np.ravel(output)[:3], [10.5, 20.375, 1.0])


def test_unused_intermediates_cost_nothing_under_jit(random_params):
    images = jnp.zeros((1, 16, 16, 3))

    def flops(num_layers):
        def first_layer(x):
            return VGGTrunk(VGG16, num_layers).apply({"params": random_params}, x)[1][1]

        return jax.jit(first_layer).lower(images).compile().cost_analysis()["flops"]

    assert flops(1) > 0
    assert flops(4) == flops(1)


def test_convolutions_ask_for_full_precision(random_params):
    apply = jax.jit(lambda x: VGGTrunk(VGG16, 2).apply({"params": random_params}, x)[0])
    assert apply.lower(jnp.zeros((1, 16, 16, 3))).as_text().count("HIGHEST") >= 2


def test_gradients_reach_the_images_through_every_layer(random_params):
    # A white-box attacker descends on images, so all of the trunk must be differentiable.
    def energy(images):
        return jnp.sum(VGGTrunk(VGG16, 13).apply({"params": random_params}, images)[0])

    images, direction = _smooth_images(2, 32)[:, None]
    _, slope = jax.jvp(energy, (images,), (direction,))
    gradient = jax.grad(energy)(images)
    assert float(slope) != 0
    # Forward and reverse mode sum in different orders: float32 over 13 layers, with cancellation.
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((16, 16, 3), "float32", r"shape \(16, 16, 3\); expected \[N, H, W, 3\]"),
        ((1, 3, 16, 16), "float32", r"expected \[N, H, W, 3\]"),
        ((1, 16, 16, 3), "uint8", "type uint8; expected float32"),
        ((1, 16, 1, 3), "float32", "16x1 pixels; conv2_2 needs at least 2x2"),
    ],
)
def test_bad_images_are_refused(random_params, shape, dtype, message):
    with pytest.raises(UserError, match=message):
        VGGTrunk(VGG16, 4).apply({"params": random_params}, jnp.zeros(shape, dtype))
