"""The sums that linear attacks on a layer are fitted to, over the attacker's images.

`linear_attack` makes an attack on any subset of channels out of them. Taken once, they serve every
topology of a layer.

    fitted_on, chosen_on = linear_statistics(stored, images, fitted_rows, chosen_rows)
    attack = linear_attack.fit(fitted_on, chosen_on, positions=(0, 3, 5))
"""

import math
from collections import OrderedDict
from typing import Any

import numpy as np

from privynet_jax.images.parts import as_float
from privynet_jax.platform.row_views import ChosenChannels
from privynet_jax.training.models.linear_attack import LinearStatistics, gather_statistics

# Positions of representations that enter a Gram matrix: over 100 per unknown at 512 channels.
POSITIONS = 2**19
# Positions whose neighbourhoods are formed at once: 64 images of 32 x 32, and 1 of 224 x 224.
_BATCH, _BATCH_POSITIONS = 64, 2**16
# The latest sums, with what they were taken over: attackers of a layer ask for the same ones.
_latest: OrderedDict[tuple[Any, ...], tuple[Any, ...]] = OrderedDict()
_KEPT = 2


def linear_statistics(
    stored: Any,
    images: np.ndarray,
    fitted_rows: np.ndarray,
    chosen_rows: np.ndarray,
    *,
    channels: np.ndarray | None = None,
    positions: int = POSITIONS,
) -> tuple[LinearStatistics, LinearStatistics]:
    """Returns the sums over images to fit on, and over others on which a ridge is chosen.

    Args:
        stored: representations [N, h, w, C], an array or what reads rows.
        images: uint8 [N, H, W, 3], theirs.
        fitted_rows: int [n].
        chosen_rows: int [m].
        channels: int [c], positions of those that count; all by default.
        positions: of representations to sum over; decides how many rows, the first ones, count.
    """
    if channels is None:
        channels = np.arange(stored.shape[-1])
    arrays = (fitted_rows, chosen_rows, channels)
    key = (id(stored), id(images), *(array.tobytes() for array in arrays), positions)
    if key not in _latest:
        view = stored
        if len(channels) < stored.shape[-1]:
            view = ChosenChannels(stored, channels)
        sums = tuple(_sums(view, images, rows, positions) for rows in (fitted_rows, chosen_rows))
        _latest[key] = (stored, images, sums)  # the first two keep their ids theirs
        while len(_latest) > _KEPT:
            _latest.popitem(last=False)
    return _latest[key][2]


def _sums(stored: Any, images: np.ndarray, rows: np.ndarray, positions: int) -> LinearStatistics:
    per_image = math.prod(stored.shape[1:3])
    rows = rows[: -(-positions // per_image)]
    size = max(1, min(_BATCH, _BATCH_POSITIONS // per_image))
    batches = (rows[start : start + size] for start in range(0, len(rows), size))
    return gather_statistics((np.float32(stored[b]), as_float(images[b])) for b in batches)
