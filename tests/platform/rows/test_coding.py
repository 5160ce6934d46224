"""What a stored value stands for, and how far it may be from what was computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from privynet_jax.errors import UserError
from privynet_jax.platform.rows.coding import (
    DTYPES,
    Coding,
    all_finite,
    checked_dtype,
    peaks_of,
)
from privynet_jax.platform.rows.shards import ShardedRows, ShardFolder

SCALES = np.array([0.5, 2.0, 0.001], np.float32)
PEAKS = np.array([8.0, 30.0, 100.0], np.float32)


def through_the_disk(coding, features, folder):
    stored = np.asarray(jax.jit(coding.encode)(features))
    assert (stored.dtype, all_finite(stored)) == (coding.dtype, True)
    shard = ShardFolder(epath.Path(folder), "x").write("all.npy", stored)
    return coding.decoded(ShardedRows([shard], len(stored), stored.shape, stored.dtype))


@pytest.fixture
def features():
    """Values from 0 to each channel's peak, of all magnitudes, [40, 2, 5, 3]."""
    shares = np.concatenate([[0.0], np.geomspace(1e-5, 1, 399)])
    return np.float32(shares.reshape(40, 2, 5, 1) * PEAKS / SCALES)


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 24), ("float16", 11)])
def test_floats_are_rounded_once_more_at_most(features, tmp_path, dtype, digits):
    rows = through_the_disk(Coding(dtype, SCALES, PEAKS), features, tmp_path)
    exact = np.float64(features) * SCALES
    assert rows.dtype == dtype
    # Half a unit in the last place twice (product, conversion); float16's smallest numbers.
    np.testing.assert_allclose(np.asarray(rows), exact, rtol=2.0**-digits * 1.01, atol=2**-25)


def test_a_byte_is_right_to_half_a_step_of_the_logarithm(features, tmp_path):
    rows = through_the_disk(Coding("uint8", SCALES, PEAKS), features, tmp_path)
    found, exact = np.float64(rows), np.float64(features) * SCALES
    assert (rows.shape, rows.dtype, len(rows)) == (features.shape, np.float16, 40)
    half = np.log1p(PEAKS) / 254 / 2
    error = np.abs(np.log1p(found) - np.log1p(exact))
    assert (error <= half + 2**-11).all()  # float16 of what the code stands for
    assert error.max() > 0.8 * half.max()  # and not better by accident: 254 steps are in use
    assert not found[exact == 0].any()


def test_values_above_the_peak_are_cut(tmp_path):
    coding = Coding("uint8", np.ones(2, np.float32), np.float32([8, 20]))
    rows = through_the_disk(coding, np.full((1, 1, 1, 2), 1e6, np.float32), tmp_path)
    np.testing.assert_allclose(rows[:][0, 0, 0], [8, 20], rtol=2**-11)


def test_chosen_channels_are_decoded_as_all_are(features, tmp_path):
    rows = through_the_disk(Coding("uint8", SCALES, PEAKS), features, tmp_path)
    chosen, positions = np.array([3, 39, 3]), np.array([2, 0])
    expected = np.asarray(rows)[chosen][..., positions]
    found = np.zeros_like(expected)
    for where, values in rows.select(chosen, positions):
        found[where] = values
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(rows[chosen][..., positions], expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_noticed(dtype, value):
    features = np.zeros((50, 3), np.float32)
    features[17, 1] = value
    stored = np.asarray(Coding(dtype, SCALES, PEAKS).encode(jnp.asarray(features)))
    assert not all_finite(stored)
    assert all_finite(stored[:17])
    assert all_finite(stored[:0])


def test_values_too_large_for_float16_are_noticed():
    features = jnp.array([0.0, 40_000.0, -0.0])  # 80,000 after normalisation
    found = {dtype: Coding(dtype, SCALES, PEAKS).encode(features) for dtype in DTYPES}
    finite = {dtype: all_finite(np.asarray(stored)) for dtype, stored in found.items()}
    assert finite == {"float16": False, "float32": True, "uint8": True}


def test_peaks_leave_room_above_what_was_seen():
    np.testing.assert_array_equal(peaks_of(np.array([0.0, 4.0, 20.0])), np.float32([16, 16, 60]))


def test_an_unknown_type_is_refused_with_the_known_ones():
    assert checked_dtype("uint8") == "uint8"
    with pytest.raises(UserError, match=r"'bfloat16'; allowed are float16, float32, uint8; "):
        checked_dtype("bfloat16")
