"""The secret draw of channels, their secret order of release, and what classes are called there.

All by a seed that only the plan holds; every subset and every order are equally likely.

seed = secrets.token_hex(32)
drawn = draw_secretly(range(64), depth=8, seed=seed)  # 8 channels, ascending
order_secretly(drawn, seed)  # the same, shuffled
class_ids(("cat", "dog"), seed)["cat"]  # 64 hexadecimal digits
entropy_bits(64, 8)  # what somebody who knows all but the seed has to guess
"""

import dataclasses
import hashlib
import hmac
import math
import secrets
from collections.abc import Iterable, Sequence

from privynet_jax.backbone.topology import METHODS, check_depth
from privynet_jax.errors import UserError
from privynet_jax.images.folders import plain_name
from privynet_jax.platform.documents import Channel, Hex64, Text

_SEED_BITS = 256
_BYTES_PER_KEY = 16  # so many that two are never equal
# Before the seed, so that an order's numbers are others than the draw's and tell nothing of them.
_ORDER = b"privynet_jax: order of release"
_CLASSES = b"privynet_jax: id of a class\n"


def draw_secretly(candidates: Sequence[int], depth: int, seed: str) -> tuple[int, ...]:
    """Returns `depth` of the candidates, ascending, every subset with equal probability.

    The seed, 64 hexadecimal digits such as `secrets.token_hex(32)`, decides the draw.
    """
    return tuple(sorted(_shuffled(map(int, candidates), bytes.fromhex(seed))[:depth]))


def order_secretly(channels: Sequence[int], seed: str) -> tuple[int, ...]:
    """Returns the channels, every order with equal probability, whatever the seed has drawn."""
    return _shuffled(map(int, channels), _ORDER + bytes.fromhex(seed))


def class_ids(class_names: Iterable[str], seed: str) -> dict[str, str]:
    """Returns class name -> id, 64 hexadecimal digits, in the order of the ids.

    By HMAC-SHA-256 under the seed: without it, equal classes of two releases can be told to be
    equal, and no name can be found by trying. The order of ids says nothing of the names'.
    """
    key = bytes.fromhex(seed)
    ids = {}
    for name in class_names:
        content = _CLASSES + plain_name(name).encode(errors="surrogateescape")
        ids[name] = hmac.digest(key, content, "sha256").hex()
    return dict(sorted(ids.items(), key=lambda entry: entry[1]))


def entropy_bits(candidates: int, depth: int) -> float:
    """Returns log2 of the number of subsets of `depth` out of so many candidates, at most 256.

    A seed cannot draw more. The order of release, which is secret too, is not counted: statistics
    of the channels, which give the subset away, give away with it which channel is where.
    """
    return min(math.log2(math.comb(candidates, depth)), float(_SEED_BITS))


def _shuffled(items: Iterable[int], secret: bytes) -> tuple[int, ...]:
    """The items, whatever order they come in, in the order of one hashed number for each."""
    # Rather than by NumPy's permutation: that may change from version to version, and its seeding
    # would keep 128 of the 256 bits.
    ordered = sorted(items)
    stream = hashlib.shake_256(secret).digest(_BYTES_PER_KEY * len(ordered))
    starts = range(0, len(stream), _BYTES_PER_KEY)
    keys = [stream[start : start + _BYTES_PER_KEY] for start in starts]
    return tuple(ordered[place] for place in sorted(range(len(ordered)), key=keys.__getitem__))


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the released channels were chosen. All of it is secret."""

    method: Text  # of `topology.METHODS`
    candidates: tuple[Channel, ...]  # what is drawn from, ascending; of direct, what is released
    seed: Hex64  # decides the draw and the orders of release
    entropy_bits: float  # of the draw, for who knows everything but the seed; 0 of direct

    def channels(self, depth: int) -> tuple[int, ...]:
        """Returns the drawn channels in the order that they are released in, both by the seed."""
        return order_secretly(draw_secretly(self.candidates, depth, self.seed), self.seed)


def select(
    candidates: Sequence[int], method: str, depth: int, seed: str | None = None
) -> Selection:
    """Returns a selection with a fresh secret seed, 256 bits from the system.

    Candidates are channels that may be drawn; of direct, those that are released. A seed that is
    given, 64 hexadecimal digits, is for measurements that protect nobody's pictures.

    Raises:
        UserError: the method is not of `METHODS`, or depth is out of range.
    """
    if method not in METHODS:
        raise UserError(
            f"the method of selection is {method!r}; allowed are {', '.join(METHODS)}; "
            "both is PrivyNet's"
        )
    distinct = tuple(sorted({int(channel) for channel in candidates}))
    check_depth(depth, len(distinct))
    bits = entropy_bits(len(distinct), depth)
    return Selection(method, distinct, seed or secrets.token_hex(32), bits)
