"""The attackers that `compare_knowledge` compares: what each knows and owns, and its attack.

What an attacker owns stands in the place of the auxiliary images.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.comparing.ground import Ground
from privynet_jax import Part
from privynet_jax.attacks.base import NETWORK, OTHER_PAIRS, PAIRS, Attack
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.substitute import ALIGNED, MIXED, RANDOM_GUESS, PublicLayer, Substitute
from privynet_jax.platform.row_views import ChosenRows, RowView
from privynet_jax.results.cells import Cell

MEAN_IMAGE = "nothing: the mean image"


def with_fewer(ground: Ground, number: int, count: int) -> Ground:
    """Returns the layer of this number with the first so many pairs."""
    part, rows = ground.parts.auxiliary, np.arange(count)
    stored = ChosenRows(ground.features[number].parts["auxiliary"], rows)
    return _with_pairs(ground, number, Part(part.images[rows], part.labels[rows]), stored)


def with_pairs_of(other: Ground, ground: Ground, number: int) -> Ground:
    """Returns a layer with pairs of another data set's images that the attacked device made."""
    layer, theirs = ground.features[number], other.features[number]
    stored = _Rescaled(theirs.parts["auxiliary"], layer.scales / theirs.scales)
    return _with_pairs(ground, number, other.parts.auxiliary, stored)


def _with_pairs(ground: Ground, number: int, part: Part, stored: Any) -> Ground:
    layer = ground.features[number]
    changed = dataclasses.replace(layer, parts={**layer.parts, "auxiliary": stored})
    parts = dataclasses.replace(ground.parts, auxiliary=part)
    return Ground(parts, ground.weights, {number: changed})


class _Rescaled(RowView):
    """Rows whose channels are multiplied as they are read."""

    def __init__(self, stored: Any, factors: np.ndarray) -> None:
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._factors = stored, factors

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return (self._stored[numbers] * self._factors).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attacker: its knowledge in words, the attack, and the data set with what it owns."""

    words: str
    attack: Attack
    ground: Ground

    @property
    def images(self) -> int:
        """How many it owns."""
        return len(self.ground.parts.auxiliary)


def cases(
    attack: Attack,
    counts: Sequence[int],
    number: int,
    ground: Ground,
    other: Ground | None = None,
) -> Iterator[Case]:
    """Yields all attackers of one layer: by knowledge, then by the number of pairs."""
    yield Case(MEAN_IMAGE, MeanImage(), ground)
    yield Case(PAIRS, attack, ground)
    if other:
        yield Case(OTHER_PAIRS, attack, with_pairs_of(other, ground, number))
    public = PublicLayer.of_features(ground.features[number], "auxiliary")
    for guessing in (RANDOM_GUESS, MIXED, ALIGNED):
        knowing = Substitute(attack, guessing, public=public)
        yield Case(f"{NETWORK}, {guessing} guess", knowing, ground)
    if other:
        public = PublicLayer.of_features(other.features[number], "auxiliary")
        words = f"{NETWORK}, {ALIGNED} guess, other pictures"
        knowing = Substitute(attack, ALIGNED, public=public)
        yield Case(words, knowing, with_pairs_of(other, ground, number))
    for count in counts:
        if count < len(ground.parts.auxiliary):
            yield Case(f"{count} pairs", attack, with_fewer(ground, number, count))


def side_by_side(
    of_layer: Sequence[Case], cells: Sequence[Cell]
) -> Iterator[tuple[Attack, list[tuple[Case, Cell]]]]:
    """Yields each attack with the cases, and the draws of one depth, that are fitted together."""
    substitutes = [case for case in of_layer if isinstance(case.attack, Substitute)]
    others = [case for case in of_layer if case not in substitutes]
    for attack in dict.fromkeys(case.attack for case in others):
        yield attack, [(case, cell) for case in others if case.attack == attack for cell in cells]
    for case in substitutes:  # one by one: each has representations of its own making in memory
        for cell in cells:
            yield case.attack, [(case, cell)]
