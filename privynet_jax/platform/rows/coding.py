"""How features are stored: normalised per channel, then as float16, float32 or one byte.

`extraction` encodes with JAX, `extract_release` with NumPy, and `cached_layer` reads rows that
are decoded on the host. No JAX here.

    coding = Coding("uint8", scales, peaks)
    codes = coding.encode(x)  # x: float32 [..., C] as a network gives it; codes: uint8 [..., C]
    rows = coding.decoded(stored)  # an array of float16, like `stored` in all other respects

A byte holds log(1 + x) in 254 steps up to the channel's peak. Post-ReLU values have heavy tails:
steps of equal size would spend most codes on values that hardly occur. Zeros stay zeros.
"""

import dataclasses
from typing import Any

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.rows.row_views import Blocks, RowView
from privynet_jax.platform.rows.shards import ShardedRows

DTYPES = ("float16", "float32", "uint8")
_LARGEST_CODE = 254
_NOT_FINITE = 255
# A byte reaches beyond the largest value of the calibration images by this factor, and at least
# to this many times the root mean square.
_PEAK_MARGIN = 3.0
_LEAST_PEAK = 16.0


@dataclasses.dataclass(frozen=True, eq=False)
class Coding:
    """The storage of one layer's features."""

    dtype: str  # one of `DTYPES`
    scales: np.ndarray  # float32 [C], what each channel is multiplied by
    peaks: np.ndarray  # float32 [C], largest normalised value that a byte holds; others are cut

    def encode(self, features: Any) -> Any:
        """Returns the stored form of float32 features [..., C], JAX's or NumPy's; `all_finite`."""
        xp = features.__array_namespace__()
        normalised = features * self.scales
        if self.dtype != "uint8":
            return normalised.astype(self.dtype)
        codes = xp.round(xp.log1p(normalised) * (_LARGEST_CODE / np.log1p(self.peaks)))
        codes = xp.minimum(codes, _LARGEST_CODE)
        return xp.where(xp.isfinite(normalised), codes, _NOT_FINITE).astype(xp.uint8)

    def decoded(self, stored: ShardedRows) -> "ShardedRows | DecodedRows":
        """Returns the rows as float16, or float32 where that is what is stored."""
        return DecodedRows(stored, self.peaks) if self.dtype == "uint8" else stored


class DecodedRows(RowView):
    """Rows of bytes that become float16 representations as they are read."""

    def __init__(self, stored: ShardedRows, peaks: np.ndarray) -> None:
        """Wraps bytes [N, h, w, C] with peaks float32 [C] as in `Coding`."""
        super().__init__(stored.shape, np.float16)
        self._stored = stored
        codes = np.arange(_LARGEST_CODE + 1)[:, None] / _LARGEST_CODE
        # What each code stands for, [255, C]: looking up is quicker than exponentials.
        self._values = np.float16(np.expm1(codes * np.log1p(np.float64(peaks))))

    def select(self, which: slice | np.ndarray, positions: np.ndarray) -> Blocks:
        """As `RowView.select`, in the blocks of the stored rows."""
        values = self._values[:, positions]
        for where, codes in self._stored.select(which, positions):
            yield where, _looked_up(codes, values)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return _looked_up(self._stored[numbers], self._values)


def all_finite(stored: np.ndarray) -> bool:
    """Whether all features were finite, by their stored form.

    Asked on the host, of the largest value, because a device's reduction of everything to one
    number takes longer on CPUs than storing it all.
    """
    if stored.dtype == np.uint8:
        return bool(stored.max(initial=0) < _NOT_FINITE)
    if stored.dtype == np.float16:  # whose comparisons NumPy emulates; as bits they are integers
        return bool((stored.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)
    return bool(np.isfinite(stored).all())


def checked_dtype(dtype: str) -> str:
    """Returns it, or raises UserError unless it is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise UserError(
            f"features cannot be stored as {dtype!r}; allowed are {', '.join(DTYPES)}; "
            "float16 is the usual choice"
        )
    return dtype


def peaks_of(largest: np.ndarray) -> np.ndarray:
    """Returns float32 peaks for the largest normalised values seen, float [C]."""
    return np.float32(np.maximum(_PEAK_MARGIN * largest, _LEAST_PEAK))


def _looked_up(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Replaces codes [..., C] by what a table [255, C] says of them."""
    channels = values.shape[1]
    places = codes.astype(np.int32) * channels + np.arange(channels, dtype=np.int32)
    return values.reshape(-1).take(places)
