"""Which channels are kept, the one pass that computes them, and the mini-batches cut from them."""

import jax
import numpy as np
import pytest
from jax import export
from support.handmade_layers import handmade_features

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features import layer_features
from privynet_jax.backbone.features.layer_features import extractor, image_features, needed_channels
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.platform.rows.row_views import ChosenChannels

# float32 sums of up to 4608 products in another order; one hundred roundings of the largest value.
TOLERANCE = 1e-5
UNION = {1: (0, 63), 4: (3, 17, 90), 13: tuple(range(0, 512, 7))}


def assert_close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def flops(union, params, images):
    return jax.jit(extractor(VGG16, union)).lower(params, images).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def images(small_parts):
    return as_float(small_parts.test.images[:3])


@pytest.fixture(scope="module")
def extracted(vgg_weights, images):
    return jax.jit(extractor(VGG16, UNION))(vgg_weights.params, images)


def test_needed_channels_are_the_union_of_each_layer_in_order():
    topologies = [Topology(4, (9, 2)), Topology(2, (5,)), Topology(4, (2, 100, 7))]
    union = needed_channels(topologies)
    assert union == {2: (5,), 4: (2, 7, 9, 100)}
    assert list(union) == [2, 4]
    assert needed_channels([]) == {}


@pytest.mark.parametrize("layer", UNION)
def test_one_pass_gives_every_layer_what_its_local_nn_releases(
    vgg_weights, images, extracted, layer
):
    local = local_nn(vgg_weights.params, Topology(layer, UNION[layer]))
    expected = np.asarray(local(images))
    # Deep layers are sparse; were all channels zero, the comparison would be empty.
    assert (expected.max(axis=(0, 1, 2)) > 0).sum() >= 2
    assert list(extracted) == list(UNION)
    assert_close(extracted[layer], expected)


def test_a_layer_does_not_depend_on_the_layers_asked_for_with_it(vgg_weights, images, extracted):
    alone = jax.jit(extractor(VGG16, {4: (90, 3)}))(vgg_weights.params, images)
    assert_close(alone[4], np.asarray(extracted[4])[..., [2, 0]])


def test_layers_not_asked_for_cost_nothing(vgg_weights, images):
    two, four = (flops({layer: (0,)}, vgg_weights.params, images) for layer in (2, 4))
    both = flops({2: (0,), 4: (0,)}, vgg_weights.params, images)
    # At 32 x 32, conv1_1 and conv1_2 multiply 39.5 million times, conv2_1 and conv2_2 56.6 million.
    assert both == pytest.approx(four, rel=0.01)
    assert four / two == pytest.approx((39.5 + 56.6) / 39.5, rel=0.1)


def test_positions_pick_channels_in_the_order_asked_for():
    # The value tells its place: 100 * image + 10 * row + column + channel / 8, exact in float16.
    image, row, column, channel = np.indices((4, 3, 2, 5))
    stored = np.float16(100 * image + 10 * row + column + channel / 8)
    layer = handmade_features(4, (10, 20, 30, 40, 50), {"test": stored})
    positions = layer.positions((40, 10))
    assert positions.tolist() == [3, 0]
    # In whatever order the channels are kept.
    shuffled = handmade_features(4, (30, 10, 50, 20, 40), {"test": stored})
    assert shuffled.positions((40, 10, 50)).tolist() == [4, 1, 2]
    for missing in ((40, 5), (15,), (60,)):
        with pytest.raises(ValueError, match="Expected channels out of"):
            layer.positions(missing)
    batch = ChosenChannels(layer.parts["test"], positions, 4)[[2, 0, 2]]
    assert (batch.shape, batch.dtype) == ((3, 3, 2, 4), np.float16)
    assert batch[0, 1, 1].tolist() == [211 + 3 / 8, 211, 0, 0]
    assert batch[1, 2, 0].tolist() == [20 + 3 / 8, 20, 0, 0]
    np.testing.assert_array_equal(batch[2], batch[0])


def test_images_as_features_have_unit_mean_square_on_auxiliary_images(small_parts):
    layer = image_features(small_parts)
    assert (layer.num_layers, layer.channels) == (0, (0, 1, 2))
    images = np.float64(small_parts.auxiliary.images) / 255
    scale = 1 / np.sqrt(np.square(images).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(layer.scales, scale, rtol=1e-4)  # float32 sums
    assert layer.scales.dtype == np.float32
    for name, part in small_parts.items():
        stored = layer.parts[name][:]
        assert (stored.shape, stored.dtype) == (part.images.shape, np.float16)
        # Half a unit in the last place of float16, and of its smallest numbers.
        exact = part.images / 255 * scale
        np.testing.assert_allclose(stored, exact, rtol=2**-11 * 1.01, atol=2**-25)


def test_only_the_first_auxiliary_images_set_the_scale(monkeypatch):
    monkeypatch.setattr(layer_features, "CALIBRATION_IMAGES", 2)
    greys = np.array([51, 102, 255], np.uint8)  # 0.2, 0.4, 1.0
    part = Part(np.broadcast_to(greys[:, None, None, None], (3, 4, 4, 3)), np.arange(3))
    parts = Parts(part, part, part, part, ("a", "b", "c"), "greys", "")
    found = image_features(parts).parts["test"][:][:, 0, 0, 0]
    # The root mean square of 0.2 and 0.4 is sqrt(0.1).
    np.testing.assert_allclose(found, np.array([0.2, 0.4, 1.0]) / np.sqrt(0.1), rtol=2**-11 * 1.01)


def test_the_pass_lowers_for_every_backend(vgg_weights, images):
    platforms = ("cpu", "cuda", "tpu")
    run = jax.jit(extractor(VGG16, {2: (0, 3, 60), 7: tuple(range(256))}))
    lowered = export.export(run, platforms=platforms)(vgg_weights.params, images[:2])
    assert lowered.platforms == platforms
    assert [x.shape[1:] for x in lowered.out_avals] == [(32, 32, 3), (8, 8, 256)]
