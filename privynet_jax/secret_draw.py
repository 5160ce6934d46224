"""The secret draw of channels: by a seed that only the plan holds, every subset equally likely.

seed = secrets.token_hex(32)
draw_secretly(range(64), depth=8, seed=seed)  # 8 channels, ascending
entropy_bits(64, 8)  # what somebody who knows all but the seed has to guess
"""

import hashlib
import math
from collections.abc import Sequence

_SEED_BITS = 256
_BYTES_PER_KEY = 16  # so many that two are never equal


def draw_secretly(candidates: Sequence[int], depth: int, seed: str) -> tuple[int, ...]:
    """Returns `depth` of the candidates, ascending, every subset with equal probability.

    Args:
        candidates: channels.
        depth: how many to draw.
        seed: 64 hexadecimal digits, such as `secrets.token_hex(32)`; it decides the draw.
    """
    # The order of hashed numbers, rather than NumPy's permutation: that may change from version to
    # version, and its seeding would keep 128 of the 256 bits.
    ordered = sorted(candidates)
    stream = hashlib.shake_256(bytes.fromhex(seed)).digest(_BYTES_PER_KEY * len(ordered))
    starts = range(0, len(stream), _BYTES_PER_KEY)
    keys = [stream[start : start + _BYTES_PER_KEY] for start in starts]
    drawn = sorted(range(len(ordered)), key=keys.__getitem__)[:depth]
    return tuple(int(ordered[place]) for place in sorted(drawn))


def entropy_bits(candidates: int, depth: int) -> float:
    """Returns log2 of the number of subsets of `depth` out of so many candidates.

    A seed of 256 bits cannot draw more than 2^256 of them, so that is the most it returns.
    """
    return min(math.log2(math.comb(candidates, depth)), float(_SEED_BITS))
