"""What all attacks have in common: the knowledge they are given, fitting, and reconstructing.

An attack is fitted on what the attacker owns, once per topology, and then rebuilds images of any
number of representations. It never meets a true image of what it attacks.

    fitted = attack.fit(pairs, Knowledge(PAIRS), jax.random.key(0))
    estimates = fitted.reconstruct(representations)  # float32 [N, H, W, 3] in [0, 1]
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from privynet_jax.errors import UserError

# What an attacker has, beside the representations under attack. The words stand in all tables.
PAIRS = "pairs"
OTHER_PAIRS = "pairs from another data set"
NETWORK = "network but not channels"
EVERYTHING = "everything"
KNOWLEDGE = (PAIRS, OTHER_PAIRS, NETWORK, EVERYTHING)

# images float32 [N, H, W, 3] in [0, 1] -> representations float32 [N, h, w, channels]
Representing = Callable[[jax.Array], jax.Array]


class Pairs(NamedTuple):
    """Images that an attacker owns, with their representations.

    Attributes:
        representations: [N, h, w, D], float32 or as the cache stores them, float16; an array or
            what reads rows as they are asked for (`row_views`). Normalised: of root mean square
            about 1 per channel. Without rows ([0, h, w, D]) where the attacker has images but
            nobody to represent them.
        images: uint8 [N, H, W, 3].
    """

    representations: Any
    images: np.ndarray

    def chosen(self, rows: slice | np.ndarray) -> "Pairs":
        """Returns some of the pairs, by a slice or row numbers."""
        return Pairs(self.representations[rows], self.images[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Knowledge:
    """What an attacker knows beside its pairs; recorded with every number that comes from it.

    Attributes:
        name: one of `KNOWLEDGE`.
        local: images -> the released, normalised representation [N, h, w, D], differentiable.
            For `EVERYTHING`.
        layer: images -> all channels of the last local layer after its ReLU, not normalised,
            [N, h, w, C]. For `NETWORK` and `EVERYTHING`.
        observed: normalised representations of unknown images, float [N, h, w, D]: the release
            under attack. For `NETWORK`.
    """

    name: str = PAIRS
    local: Representing | None = None
    layer: Representing | None = None
    observed: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.name not in KNOWLEDGE:
            raise UserError(
                f"knowledge {self.name!r}; allowed are {', '.join(map(repr, KNOWLEDGE))}; give one"
            )


# What fitting chose and found, such as "steps", "learning_rate", "converged" and
# "falling_percent_per_doubling".
Report = Mapping[str, str | float | int | bool]


class FittedAttack(Protocol):
    """An attack that is ready for the representations of one topology."""

    @property
    def report(self) -> Report:
        """What fitting chose and found."""
        ...

    def reconstruct(self, representations: np.ndarray) -> np.ndarray:
        """float32 [N, h, w, D], normalised -> estimates float32 [N, H, W, 3] in [0, 1]."""
        ...


class Attack(Protocol):
    """A way to rebuild images.

    Attributes:
        name: what results call it.
    """

    name: str

    def fit(self, pairs: Pairs, knowledge: Knowledge, key: jax.Array) -> FittedAttack:
        """Prepares the attack on one topology.

        Args:
            pairs: what the attacker owns; what it needs for tuning it holds out of them.
            knowledge: what else it knows.
            key: of all that is random.

        Raises:
            UserError: pairs or knowledge are not enough for this attack, or training diverged.
        """
        ...
