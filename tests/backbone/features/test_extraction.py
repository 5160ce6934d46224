"""The pass of VGG16: right values in unit mean square, in batches that fit into memory."""

import jax
import numpy as np
import pytest
from support.small_cache import changed_first_layer

from privynet_jax.backbone.features import extraction
from privynet_jax.backbone.features.extraction import FeaturePass, calibrate, images_per_batch
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import data_parallel

CHANNELS = (0, 5, 40)
UNION = {1: CHANNELS}


def extracted(weights, parts, union, part, dtype="float16"):
    codings = calibrate(weights, parts, union, dtype)
    return FeaturePass(weights, parts, union, codings).run(part.images)


def released(weights, layer, channels, part):
    """The local NN's output, by small batches: another program than the extractor's."""
    local = jax.jit(local_nn(weights.params, Topology(layer, channels)))
    images, size = as_float(part.images), 10
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return np.concatenate([np.float64(local(batch)) for batch in batches])


def scale_of(representations):
    return 1 / np.sqrt(np.square(representations).mean(axis=(0, 1, 2)))


def assert_float16_of(stored, exact):
    """Stored values are the exact ones to half a unit of float16, plus float32's 1e-5 (split)."""
    assert (stored.shape, stored.dtype) == (exact.shape, np.float16)
    allowed = 2**-11 * np.abs(exact) + 2**-25 + 1e-5 * exact.max()
    assert (np.abs(np.float64(stored) - exact) <= allowed).all()


def test_values_are_the_local_nns_in_unit_mean_square(vgg_weights, small_parts, monkeypatch):
    # Three batches fill the auxiliary part; in the test part the last one is filled up.
    monkeypatch.setattr(extraction, "images_per_batch", lambda size: 16)
    union = {2: (3, 7, 60), 7: tuple(range(0, 256, 17))}
    codings = calibrate(vgg_weights, small_parts, union, "float16")
    feature_pass = FeaturePass(vgg_weights, small_parts, union, codings)
    told = []
    for part in (small_parts.auxiliary, small_parts.test):
        found = feature_pass.run(part.images, told.append)
        assert list(found) == list(union)
        for layer, channels in union.items():
            scale = scale_of(released(vgg_weights, layer, channels, small_parts.auxiliary))
            exact = released(vgg_weights, layer, channels, part) * scale
            assert_float16_of(found[layer], exact)
    assert told == [32, 32, 32, 32, 18]


def test_only_the_first_auxiliary_images_set_scale_and_peak(vgg_weights, few_parts, monkeypatch):
    monkeypatch.setattr(extraction, "CALIBRATION_IMAGES", 4)
    monkeypatch.setattr(extraction, "images_per_batch", lambda size: 1)
    [coding] = calibrate(vgg_weights, few_parts, UNION, "uint8").values()
    auxiliary = released(vgg_weights, 1, CHANNELS, few_parts.auxiliary)
    scale = scale_of(auxiliary[:4])
    np.testing.assert_allclose(coding.scales, scale, rtol=1e-5)
    largest = (auxiliary[:4] * scale).max(axis=(0, 1, 2))
    np.testing.assert_allclose(coding.peaks, np.maximum(3 * largest, 16), rtol=1e-5)
    assert np.abs(scale_of(auxiliary) / scale - 1).max() > 0.01


def test_dead_channels_stay_zero_and_weak_ones_are_not_blown_up(vgg_weights, few_parts):
    weights = changed_first_layer(vgg_weights, scale={0: 0.0, 5: 1e-4}, bias={0: -1.0})
    stored = extracted(weights, few_parts, UNION, few_parts.test)[1]
    exact = released(weights, 1, CHANNELS, few_parts.test)
    rms = 1 / scale_of(released(weights, 1, CHANNELS, few_parts.auxiliary)[..., 1:])
    # The floor is a hundredth of the mean over the three channels, of which one is dead.
    floor = extraction.LEAST_RELATIVE_RMS * rms.sum() / 3
    assert rms[0] < floor
    assert not stored[..., 0].any()
    assert_float16_of(stored[..., 1], exact[..., 1] / floor)
    assert_float16_of(stored[..., 2], exact[..., 2] / rms[1])


def test_batches_spread_over_two_devices_give_the_same(vgg_weights, few_parts, monkeypatch):
    expected = extracted(vgg_weights, few_parts, UNION, few_parts.test)[1]
    monkeypatch.setattr(extraction, "data_parallel", lambda: data_parallel(dividing=1))
    found = extracted(vgg_weights, few_parts, UNION, few_parts.test)[1]
    # A rounding of float32 may tip one of float16: one unit in its last place.
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=2**-24)


def test_how_many_images_come_at_once_changes_nothing(vgg_weights, few_parts):
    codings = calibrate(vgg_weights, few_parts, UNION, "float32")
    feature_pass = FeaturePass(vgg_weights, few_parts, UNION, codings)
    images = few_parts.test.images
    together = feature_pass.run(images)[1]
    alone = np.concatenate([feature_pass.run(images[i : i + 1])[1] for i in range(len(images))])
    np.testing.assert_array_equal(together, alone)
    assert feature_pass.run(images[:0]) == {}


@pytest.mark.parametrize(
    ("image_size", "on_cpu", "elsewhere"),
    [(8, 32, 256), (32, 32, 256), (33, 16, 256), (64, 8, 256), (224, 1, 16), (2000, 1, 1)],
)
def test_a_batch_of_larger_images_holds_fewer(image_size, on_cpu, elsewhere, monkeypatch):
    assert images_per_batch(image_size) == on_cpu
    monkeypatch.setattr(extraction, "on_cpu", lambda: False)
    assert images_per_batch(image_size) == elsewhere


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(vgg_weights, few_parts, value):
    weights = changed_first_layer(vgg_weights, bias={5: value})
    with pytest.raises(UserError, match="weights embedded give values that are not finite"):
        calibrate(weights, few_parts, UNION, "float16")
    codings = calibrate(vgg_weights, few_parts, UNION, "float16")
    with pytest.raises(UserError, match="weights embedded give values that are not finite"):
        FeaturePass(weights, few_parts, UNION, codings).run(few_parts.test.images)
