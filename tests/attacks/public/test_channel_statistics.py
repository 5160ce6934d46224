"""Statistics of channels against NumPy's own and hand-worked cases."""

import numpy as np
import pytest

from privynet_jax.attacks.public.channel_statistics import (
    _of_chunk,
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.errors import UserError


def noise(*shape, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


def statistics(x, size=8):
    return channel_statistics(chunks_of(x, size))


def test_no_scale_changes_them_but_the_root_mean_square():
    x = noise(32, 6, 6, 5)
    scales = np.float32([0.01, 1, 7, 30, 1000])
    plain, scaled = statistics(x), statistics(x * scales)
    np.testing.assert_allclose(scaled.rms, plain.rms * scales, rtol=1e-5)
    np.testing.assert_allclose(scaled.unary, plain.unary, atol=2e-4)  # float32 sums
    np.testing.assert_allclose(scaled.pairwise, plain.pairwise, atol=2e-5)
    np.testing.assert_allclose(plain.rms, np.sqrt(np.mean(np.square(x), (0, 1, 2))), rtol=1e-5)


def test_shares_above_thresholds_of_a_known_channel():
    # A quarter of the values are 2, the others 0: the root mean square is 1.
    x = np.zeros((4, 4, 4, 1), np.float32)
    x[:, ::2, ::2] = 2
    found = statistics(x, size=4).unary[0, 0]
    shares = np.square(np.sin(found[:11]))
    # Above 0 .. 1.5 a quarter, above 2 and more none.
    np.testing.assert_allclose(shares, [0.25] * 7 + [0] * 4, atol=1e-6)
    # Means of x, x^3 and x^4: 2 / 4, 8 / 4, 16 / 4.
    np.testing.assert_allclose(found[11:14], np.log([0.5, 2, 4]), atol=1e-5)


def test_correlations_are_those_of_numpy():
    x = noise(8, 5, 6, 3, seed=1)
    y = np.log1p(x / np.sqrt(np.mean(np.square(x), (0, 1, 2))))
    found = statistics(x).pairwise
    np.testing.assert_allclose(found[0], np.corrcoef(y.reshape(-1, 3).T), atol=1e-5)
    y = (y - y.mean((0, 1, 2))) / y.std((0, 1, 2))
    # The third lag is one row down and no column.
    by_hand = np.einsum("nhwi,nhwj->ij", y[:, :-1], y[:, 1:]) / (8 * 4 * 6)
    np.testing.assert_allclose(found[2], by_hand, atol=1e-5)
    # The last one before that of whole images is two rows down.
    by_hand = np.einsum("nhwi,nhwj->ij", y[:, :-2], y[:, 2:]) / (8 * 3 * 6)
    np.testing.assert_allclose(found[-2], by_hand, atol=1e-5)


def test_accelerators_multiply_with_all_bits():
    lowered = _of_chunk.lower(np.ones((4, 5, 6, 3), np.float32)).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    # Seven lags, means over images, and at least one product for the map of fields.
    assert len(products) >= 9
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_spread_is_the_covariance_from_chunk_to_chunk():
    x = noise(40, 4, 4, 6, seed=2)
    each = [statistics(x[start : start + 10], size=10).pairwise for start in range(0, 40, 10)]
    deviations = np.stack(each) - np.mean(each, axis=0)
    expected = np.einsum("klij,kmij->lm", deviations, deviations) / (3 * 6 * 6)
    np.testing.assert_allclose(statistics(x, size=10).spread, expected, atol=1e-7)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_maps_have_statistics_too(side):
    assert np.isfinite(statistics(noise(16, side, side, 4)).unary).all()


def test_a_constant_channel_is_no_error_and_bad_values_are():
    assert np.isfinite(statistics(np.ones((8, 4, 4, 2), np.float32)).unary).all()
    with pytest.raises(UserError, match="without images"):
        statistics(np.empty((0, 4, 4, 2), np.float32))
    with pytest.raises(UserError, match="not finite"):
        statistics(np.full((8, 4, 4, 2), np.nan, np.float32))


def test_chunks_are_small_where_images_are_large():
    assert chunk_size(1000, (32, 32, 64)) == 32
    assert chunk_size(7, (32, 32, 64)) == 7
    assert chunk_size(1000, (224, 224, 64)) == 10
