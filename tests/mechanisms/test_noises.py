"""Bounds that hold, noise as stated, levels, and randomness of each image's own."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.every_mechanism import ALL

from privynet_jax.mechanisms.guarantees import gaussian_epsilon
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    LaplaceNoise,
    Quantisation,
    clipped_l1,
    clipped_l2,
)
from privynet_jax.mechanisms.release_functions import image_keys, of_representations

KEY = jax.random.key(5)
SHAPE = (6, 5, 4)
VALUES = math.prod(SHAPE)


def representations(count, scale=1.0, seed=0):
    """Post-ReLU values with a heavy tail, from zero images to large ones."""
    rng = np.random.default_rng(seed)
    sizes = scale * np.geomspace(0.01, 100, count)[:, None, None, None]
    x = np.maximum(rng.standard_normal((count, *SHAPE)), 0) ** 2 * sizes
    x[0] = 0
    return np.float32(x)


def released(mechanism, x, rows=None):
    rows = np.arange(len(x)) if rows is None else rows
    return np.asarray(_released(mechanism, None, KEY, x, rows))


_released = jax.jit(of_representations, static_argnums=0)


# Bounds.


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e25])
def test_norms_are_bounded_and_directions_kept(scale):
    x = np.float64(representations(40, scale))
    for order, clip in ((2, clipped_l2), (1, clipped_l1)):
        bound = 3.0 * scale
        y = np.float64(jax.vmap(lambda x, clip=clip, bound=bound: clip(x, bound))(np.float32(x)))
        norms = np.abs(x**order).sum((1, 2, 3)) ** (1 / order)
        found = np.abs(y**order).sum((1, 2, 3)) ** (1 / order)
        assert (found <= bound * (1 + 1e-5)).all()  # the rounding of float32
        assert found == pytest.approx(np.minimum(norms, bound), rel=1e-4)
        assert (norms > bound).any()
        np.testing.assert_array_equal(y[norms < 0.99 * bound], x[norms < 0.99 * bound])
        cosines = (x * y).sum((1, 2, 3)) / np.maximum(norms, 1e-30)
        if order == 2:
            assert cosines == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize(
    ("mechanism", "order", "distance"),
    [
        (GaussianNoise(0.5, 0.0), 2, math.sqrt(2) * 0.5 * math.sqrt(VALUES)),
        (LaplaceNoise(0.5, 0.0), 1, 2 * 0.5 * VALUES),
    ],
    ids=str,
)
def test_no_pair_of_images_is_further_apart_than_the_guarantee_assumes(mechanism, order, distance):
    """Images that are zero in different places are just as far apart as that."""
    x = representations(60, 10.0)
    first, second = x.copy(), x.copy()
    first[..., :2], second[..., 2:] = 0, 0
    # A ReLU makes no negative values, but the bound may not rest on that.
    y = released(mechanism, np.concatenate([x, first, second, -x])).reshape(4 * len(x), -1)
    apart = np.linalg.norm(np.float64(y)[:, None] - y[None], ord=order, axis=-1)
    assert apart.max() == pytest.approx(distance, rel=1e-5)  # the rounding of float32
    if order == 1:
        return
    for sigma in (0.5, 64.0):
        guaranteed = dataclasses.replace(mechanism, sigma=sigma).epsilon(VALUES)
        assert guaranteed == pytest.approx(gaussian_epsilon(apart.max(), sigma), rel=1e-4)


def test_epsilon_follows_from_bound_and_noise():
    assert LaplaceNoise(0.5, 4.0).epsilon(100) == pytest.approx(2 * 50 / 4)
    assert Arden(0.5, 4.0, nullify=0.9).epsilon(100) == LaplaceNoise(0.5, 4.0).epsilon(100)
    # Norms of 1 / sqrt(2), so distances of 1; at sigma 3.7306 epsilon is 1, see test_guarantees.
    assert GaussianNoise(0.1 / math.sqrt(2), 3.7306).epsilon(100) == pytest.approx(1.0, abs=1e-4)
    for mechanism in (Plain(), ChannelDropout(0.9), Quantisation(1), GaussianNoise(math.inf)):
        assert mechanism.epsilon(100) == math.inf


# Noise.


@pytest.mark.parametrize(
    ("mechanism", "distribution"),
    [
        (GaussianNoise(2.0, 0.7), stats.norm(0, 0.7)),
        (LaplaceNoise(2.0, 0.7), stats.laplace(0, 0.7)),
        (Arden(2.0, 0.3, 0.5), stats.laplace(0, 0.3)),
    ],
)
def test_noise_is_distributed_as_stated(mechanism, distribution):
    noise = released(mechanism, np.zeros((200, *SHAPE), np.float32)).ravel()
    assert stats.kstest(noise, distribution.cdf).pvalue > 0.01
    assert stats.kstest(1.05 * noise, distribution.cdf).pvalue < 0.01  # the test sees 5 %
    # Independent from image to image, and within one.
    images = noise.reshape(200, -1)
    assert abs(stats.pearsonr(images[:-1].ravel(), images[1:].ravel()).statistic) < 0.02
    assert abs(stats.pearsonr(images[:, :-1].ravel(), images[:, 1:].ravel()).statistic) < 0.02


def test_noise_is_added_to_what_was_clipped():
    x = representations(30)
    noisy = GaussianNoise(0.5, 0.2)
    silent = GaussianNoise(0.5, 0.0)
    noise = released(noisy, x) - released(silent, x)
    assert np.allclose(noise, released(noisy, np.zeros_like(x)), atol=1e-5)


def test_arden_blackens_whole_pixels_at_its_rate():
    images = np.full((100, 16, 16, 3), 0.5, np.float32)
    before, after = image_keys(KEY, np.arange(100))
    x = np.asarray(jax.vmap(functools.partial(Arden(nullify=0.3).of_image, None))(before, images))
    assert set(np.unique(x)) == {0.0, 0.5}
    assert (x == x[..., :1]).all()
    black = int((x[..., 0] == 0).sum())
    assert stats.binomtest(black, 100 * 256, 0.3).pvalue > 0.01
    # Other randomness than the noise's.
    assert not np.intersect1d(jax.random.key_data(before), jax.random.key_data(after)).size


# Dropout and quantisation.


def test_dropout_zeroes_a_share_of_channels_and_another_one_per_image():
    x = np.ones((300, 2, 2, 10), np.float32)
    kept = released(ChannelDropout(0.34), x)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert (kept == kept[:, :1, :1]).all()
    assert (kept[:, 0, 0].sum(-1) == 7).all()
    # Every channel in its turn: 90 of 300 expected, with a standard deviation of 7.9.
    assert np.abs(300 - kept[:, 0, 0].sum(0) - 90).max() < 4 * 7.9
    assert (released(ChannelDropout(1.0), x) == 0).all()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_quantised_values_lie_on_the_levels(bits, rounding):
    x = representations(30)
    y = released(Quantisation(bits, 1.5, rounding), x)
    levels = np.linspace(0, 1.5, 2**bits)
    assert np.abs(y[..., None] - levels).min(-1).max() < 1e-6
    assert y[x >= 1.5] == pytest.approx(1.5)
    step = levels[1]
    error = np.abs(y - np.minimum(x, 1.5)).max()
    assert error <= step * (1 if rounding == "stochastic" else 0.5) * (1 + 1e-5)
    if rounding == "nearest":
        nearest = levels[np.abs(x[..., None] - levels).argmin(-1)]
        ties = np.abs(np.abs(x - nearest) - step / 2) < 1e-5
        assert y[~ties] == pytest.approx(nearest[~ties], abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_stochastic_rounding_never_leaves_the_levels(bits, monkeypatch):
    # The greatest that `uniform` gives, once in eight million values.
    greatest = np.float32(1 - 2**-23)
    monkeypatch.setattr(jax.random, "uniform", lambda _, shape, dtype: jnp.full(shape, greatest))
    saturated = np.full(SHAPE, 7.0, np.float32)
    y = np.asarray(Quantisation(bits, 1.5, "stochastic").of_representation(None, KEY, saturated))
    assert y == pytest.approx(1.5, rel=1e-6)


def test_stochastic_rounding_keeps_the_mean():
    x = np.full((500, *SHAPE), 0.4, np.float32)
    y = released(Quantisation(1, 1.0, "stochastic"), x)
    # 60,000 coins of probability 0.4.
    assert stats.binomtest(int(y.sum()), y.size, 0.4).pvalue > 0.01


# Randomness.


@pytest.mark.parametrize("mechanism", ALL, ids=str)
def test_an_image_s_randomness_depends_on_its_row_alone(mechanism):
    x = representations(7)
    whole = released(mechanism, x)
    for rows in ([4], [6, 0, 3, 5, 1, 2, 4]):
        np.testing.assert_allclose(released(mechanism, x[rows], np.array(rows)), whole[rows], 1e-6)
    same = released(mechanism, x[[2] * 7], np.array([9, 9, 8, 7, 6, 5, 4]))
    np.testing.assert_array_equal(same[0], same[1])
    if (
        mechanism.name not in ("none", "quantise")
        or getattr(mechanism, "rounding", "") == "stochastic"
    ):
        assert (same[0] != same[2]).any()
        assert (
            np.asarray(_released(mechanism, None, jax.random.key(6), x, np.arange(7))) != whole
        ).any()


@pytest.mark.parametrize(
    "mechanism",
    [
        Plain(),
        GaussianNoise(math.inf, 0.0),
        LaplaceNoise(math.inf, 0.0),
        GaussianNoise(1e9, 0.0),
        Arden(math.inf, 0.0, 0.0),
        ChannelDropout(0.0),
    ],
    ids=str,
)
def test_a_mechanism_without_strength_changes_nothing(mechanism):
    x = representations(5)
    np.testing.assert_array_equal(released(mechanism, x), x)
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    np.testing.assert_array_equal(mechanism.of_image(None, KEY, image), image)


@pytest.mark.parametrize("mechanism", ALL, ids=str)
def test_they_lower_for_accelerators(mechanism):
    def release(data, x, rows):
        return of_representations(mechanism, None, jax.random.wrap_key_data(data), x, rows)

    shapes = [
        jax.ShapeDtypeStruct(jax.random.key_data(KEY).shape, jnp.uint32),
        jax.ShapeDtypeStruct((3, *SHAPE), jnp.float32),
        jax.ShapeDtypeStruct((3,), jnp.int32),
    ]
    exported = jax.export.export(jax.jit(release), platforms=["cuda", "tpu"])(*shapes)
    assert exported.out_avals[0].shape == (3, *SHAPE)
