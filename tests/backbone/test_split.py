"""The local NN equals the trunk's channels, and survives every transformation it is used under."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_nn, local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.vgg import VGGTrunk
from privynet_jax.errors import UserError

# float32 results of the same sums in another order: relative to the largest value, 1e-5 is about
# a hundred roundings, far above what was seen (1e-7) and far below any wrong channel.
TOLERANCE = 1e-5


def _images(*shape):
    return np.random.default_rng(3).uniform(size=(*shape, 32, 32, 3)).astype(np.float32)


def _assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(
    "topology",
    [
        Topology(1, (63, 0)),
        Topology(4, (90, 3, 17)),
        Topology(9, tuple(range(511, 400, -3))),
        Topology(13, tuple(range(500, 0, -5))),
    ],
    ids=lambda topology: topology.layer.name,
)
def test_local_nn_releases_the_trunks_channels(vgg_weights, topology):
    images = _images(2)
    full, _ = VGGTrunk(VGG16, topology.num_layers).apply({"params": vgg_weights.params}, images)
    expected = np.asarray(full)[..., topology.channels]
    local = local_nn(vgg_weights.params, topology)
    assert expected.shape[1:] == topology.representation_shape(32)
    # Deep layers are sparse; were all the channels zero, the comparison would be empty.
    assert (expected.max(axis=(0, 1, 2)) > 0).sum() >= 2
    _assert_close(local(images), expected)
    _assert_close(jax.jit(local)(images), expected)
    _assert_close(local(images[0]), expected[0])


def test_local_nn_under_vmap(vgg_weights):
    images = _images(2, 3)
    local = local_nn(vgg_weights.params, Topology(2, (5, 1)))
    expected = np.stack([local(batch) for batch in images])
    _assert_close(jax.vmap(local)(images), expected)
    _assert_close(jax.vmap(jax.vmap(local))(images), expected)


def test_local_nn_lowers_for_cpu_cuda_and_tpu(vgg_weights):
    local = local_nn(vgg_weights.params, Topology(4, (90, 3, 17)))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    exported = export.export(jax.jit(local), platforms=("cpu", "cuda", "tpu"))(images)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].shape == (2, 16, 16, 3)
    again = export.deserialize(exported.serialize())
    batch = _images(2)
    _assert_close(again.call(batch), np.asarray(local(batch)))


def test_local_nn_accepts_params_as_traced_arguments(vgg_weights):
    topology = Topology(2, (8, 4))
    images = _images(1)
    params = local_params(vgg_weights.params, Topology(2, tuple(range(64))))
    found = jax.jit(lambda p, x: local_nn(p, topology)(x))(params, images)
    _assert_close(found, np.asarray(local_nn(vgg_weights.params, topology)(images)))


def test_local_params_hold_only_what_the_device_needs(vgg_weights):
    stored = local_params(vgg_weights.params, Topology(3, (100, 7)))
    assert sorted(stored) == ["conv1_1", "conv1_2", "conv2_1", "preprocessing"]
    full = vgg_weights.params["conv2_1"]
    np.testing.assert_array_equal(stored["conv2_1"]["kernel"][..., 0], full["kernel"][..., 100])
    np.testing.assert_array_equal(stored["conv2_1"]["bias"], full["bias"][[100, 7]])
    assert full["kernel"].shape[-1] == 128  # the caller's parameters are left alone


def test_cut_or_incomplete_params_are_refused(vgg_weights):
    cut = local_params(vgg_weights.params, Topology(3, (100, 7)))
    with pytest.raises(UserError, match=r"conv2_1 kernel \(3, 3, 64, 2\) instead of"):
        local_nn(cut, Topology(3, (0, 1)))
    with pytest.raises(UserError, match=r"no conv2_2; .*load_weights"):
        local_nn(cut, Topology(4, (0,)))


def test_unusable_images_are_refused(vgg_weights):
    local = local_nn(vgg_weights.params, Topology(2, (0,)))
    with pytest.raises(UserError, match=r"expected \[N, H, W, 3\]"):
        local(jnp.zeros((32, 32)))
