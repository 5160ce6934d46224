"""What a device runs against its pieces, and features that are one release of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.handmade_layers import handmade_features
from support.noise import noise_parts

from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    NoisilyTrainedArden,
)
from privynet_jax.mechanisms.release_functions import (
    image_keys,
    of_representations,
    release_function,
)
from privynet_jax.mechanisms.releases import Release, copies_for, several_copies
from privynet_jax.platform.rows.row_views import ChosenChannels

KEY, SIZE = jax.random.key(1), 16
COUNTS = {"target": 9, "auxiliary": 7, "validation": 4, "test": 5}
TOPOLOGY = Topology(2, (3, 17, 40))
SCALES = np.float32([0.01, 0.02, 0.5])


@pytest.fixture(scope="module")
def parts():
    return noise_parts(COUNTS, SIZE)


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(1)
    stored = {n: np.abs(rng.standard_normal((c, 8, 8, 8))) for n, c in COUNTS.items()}
    return handmade_features(4, range(10, 18), {n: np.float16(x) for n, x in stored.items()})


def released_features(*given, **others):
    return Release(*given, **others).features()


def normalised(weights, topology=TOPOLOGY, scales=SCALES):
    local = local_nn(weights.params, topology)
    return lambda images: local(images) * scales


FIRST, SECOND = Topology(4, (11, 12, 17)), Topology(4, (10, 12, 15))


@pytest.mark.parametrize("mechanism", [GaussianNoise(1.0, 0.3), Arden(nullify=0.5)], ids=str)
def test_the_release_function_is_its_pieces(vgg_weights, parts, mechanism):
    images, rows = as_float(parts.target.images[:3]), np.array([4, 0, 7])
    release = jax.jit(release_function(normalised(vgg_weights), mechanism))
    released = np.asarray(release(None, KEY, images, rows))
    before, after = image_keys(KEY, rows)
    for i in range(3):
        image = mechanism.of_image(None, before[i], images[i])
        clean = local_nn(vgg_weights.params, TOPOLOGY)(image) * SCALES
        expected = mechanism.of_representation(None, after[i], clean)
        assert released[i] == pytest.approx(np.asarray(expected), abs=1e-4)
    again = np.asarray(release(None, KEY, images[[2, 1, 0]], rows[[2, 1, 0]]))
    assert again[::-1] == pytest.approx(released, abs=1e-5)


def test_it_lowers_for_accelerators(vgg_weights):
    release = release_function(normalised(vgg_weights), Arden())
    key = jax.ShapeDtypeStruct(jax.random.key_data(KEY).shape, jnp.uint32)
    images = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.float32)
    rows = jax.ShapeDtypeStruct((2,), jnp.int32)
    function = jax.jit(lambda data, *rest: release(None, jax.random.wrap_key_data(data), *rest))
    exported = jax.export.export(function, platforms=["cuda", "tpu"])(key, images, rows)
    assert exported.out_avals[0].shape == (2, SIZE, SIZE, 3)


def test_features_are_one_release_however_they_are_read(layer, parts):
    found = released_features(layer, parts, FIRST, GaussianNoise(1.0, 0.5), KEY, copies=3)
    for name, count in COUNTS.items():
        rows = found.parts[name]
        assert rows.shape == (3 * count if name == "auxiliary" else count, 8, 8, 3)
        whole = rows[:]
        assert whole.dtype == rows.dtype == np.float32
        assert rows[2:2].shape == (0, 8, 8, 3)
        np.testing.assert_allclose(rows[np.array([3, 1])], whole[[3, 1]], 1e-5)
        mine = ChosenChannels(found.parts[name], found.positions(FIRST.channels), 4)[[2, 0]]
        np.testing.assert_allclose(mine[..., :3], whole[[2, 0]], 1e-5)
        assert (mine[..., 3] == 0).all()


def test_features_are_the_released_channels(layer, parts):
    """Up to one number, which brings the root mean square to 1."""
    mechanism = GaussianNoise(0.5, 0.0)
    scaled = dataclasses.replace(layer, scales=np.arange(10, 18, dtype=np.float32))
    found = released_features(scaled, parts, SECOND, mechanism, KEY)
    np.testing.assert_array_equal(found.scales, SECOND.channels)  # each channel's own number
    clean = np.float32(layer.parts["auxiliary"])[..., layer.positions(SECOND.channels)]
    expected = np.asarray(of_representations(mechanism, None, KEY, clean, np.arange(7)))
    x = found.parts["auxiliary"][:]
    assert x == pytest.approx(expected / np.sqrt(np.mean(expected**2)), rel=1e-4)
    assert np.mean(x**2) == pytest.approx(1, rel=1e-4)


def test_randomness_differs_between_parts_keys_copies_and_rows(layer, parts):
    dropped = ChannelDropout(2 / 3)
    found, other = (
        released_features(layer, parts, FIRST, dropped, key, copies=20)
        for key in jax.random.split(KEY)
    )
    kept = {name: (found.parts[name][:].max((1, 2)) > 0) for name in COUNTS}
    assert all((x.sum(1) == 1).all() for x in kept.values())
    assert (kept["target"][:5] != kept["test"]).any()
    assert (kept["auxiliary"] != (other.parts["auxiliary"][:].max((1, 2)) > 0)).any()
    # Each of seven images is there 20 times, with each of three channels about as often.
    copies = kept["auxiliary"].reshape(7, 20, 3).sum(1)
    assert copies.sum() == 140
    assert copies.min() > 0
    again = released_features(layer, parts, FIRST, dropped, jax.random.split(KEY)[0], copies=2)
    rows = [20 * image + copy for image in range(7) for copy in range(2)]
    np.testing.assert_array_equal(again.parts["auxiliary"][:], found.parts["auxiliary"][rows])


def test_copies_belong_to_their_images(layer, parts):
    found = released_features(layer, parts, FIRST, Plain(), KEY, copies=3)
    copied = several_copies(parts, auxiliary=3)
    assert len(copied.auxiliary) == len(found.parts["auxiliary"]) == 21
    for row in (0, 8, 20):
        np.testing.assert_array_equal(
            copied.auxiliary.images[row], parts.auxiliary.images[row // 3], strict=True
        )
        assert copied.auxiliary.labels[row] == parts.auxiliary.labels[row // 3]
        expected = layer.parts["auxiliary"][row // 3][..., layer.positions(FIRST.channels)]
        scaled = found.parts["auxiliary"][row : row + 1][0]
        assert np.corrcoef(scaled.ravel(), np.float32(expected).ravel())[0, 1] > 1 - 1e-6
    assert copies_for(500 * 16, 2800) == 3
    assert copies_for(16, 2800) == 1
    assert copies_for(5000 * 64, 100) == 8


def test_mechanisms_of_the_image_take_the_local_nn(layer, parts, vgg_weights):
    topology, mechanism = Topology(4, (10, 15)), Arden(nullify=0.5, clip=1e9, scale=0.0)
    local = normalised(vgg_weights, topology, np.float32([1, 2]))
    # The layer's own representations are not looked at.
    found = released_features(layer, parts, topology, mechanism, KEY, copies=2, local=local)
    # Seven images: their first copies have the first seven keys.
    before, _ = image_keys(jax.random.fold_in(KEY, 1), np.arange(14).reshape(2, 7).T.ravel())
    images = np.repeat(as_float(parts.auxiliary.images), 2, axis=0)
    expected = np.asarray(
        local(jax.vmap(functools.partial(mechanism.of_image, None))(before, images))
    )
    unit = np.sqrt(np.mean(expected[::2] ** 2))
    assert found.parts["auxiliary"][:] == pytest.approx(expected / unit, abs=1e-4)
    with pytest.raises(ValueError, match="local"):
        released_features(layer, parts, topology, mechanism, KEY)


def test_all_zero_releases_stay_zero(layer, parts):
    found = released_features(layer, parts, FIRST, ChannelDropout(1.0), KEY)
    assert (found.parts["test"][:] == 0).all()


def test_who_owns_the_training_pictures_has_them_clean_and_noisy(layer, parts, vgg_weights):
    topology, mechanism = Topology(4, (10, 15)), NoisilyTrainedArden(0.5, 0.1, 0.3)
    local = normalised(vgg_weights, topology, np.float32([1, 2]))
    found = released_features(layer, parts, topology, mechanism, KEY, local=local)
    target = found.parts["target"][:].reshape(9, 5, 8, 8, 2)
    # By the local NN that everything is made by, which may be another than the stored features'.
    clean = jax.vmap(mechanism.expected)(local(as_float(parts.target.images)))
    # All in one unit.
    ratio = np.asarray(clean) / np.where(target[:, 0] == 0, 1, target[:, 0])
    assert np.ptp(ratio[np.asarray(clean) > 1e-3]) < 1e-3
    assert (target[:, 1] != target[:, 2]).mean() > 0.9
    assert len(found.parts["test"]) == 5
    copied = several_copies(parts, target=5)
    np.testing.assert_array_equal(copied.target.labels[5:10], parts.target.labels[1])
    assert mechanism.protects == "queries"
