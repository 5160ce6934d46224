"""The attackers that `compare_knowledge` compares; `knowledge_tables` has what is told of them.

What an attacker owns stands in the place of the auxiliary images.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.comparing.ground import Ground
from privynet_jax import Part, Topology
from privynet_jax.attacks.base import (
    EVERYTHING,
    NETWORK,
    OTHER_PAIRS,
    PAIRS,
    Attack,
    check_count,
    optimises_images,
)
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.platform.rows.row_views import ChosenRows, ScaledRows
from privynet_jax.results.cells import Cell

MEAN_IMAGE, ALL_PAIRS = "nothing: the mean image", "all pairs"
PICTURES, OTHER_PICTURES = "pictures", "pictures from another data set"
# An attack's knowledge -> the class of attackers that it belongs to.
_CLASSES = {PAIRS: "pairs", NETWORK: "public", EVERYTHING: "leak"}


def with_fewer(ground: Ground, number: int, count: int) -> Ground:
    """Returns the layer of this number with the first so many pairs."""
    part, rows = ground.parts.auxiliary, np.arange(count)
    stored = ChosenRows(ground.features[number].parts["auxiliary"], rows)
    return _with_pairs(ground, number, part.take(rows), stored)


def with_pairs_of(other: Ground, ground: Ground, number: int) -> Ground:
    """Returns a layer with pairs of another data set's images that the attacked device made."""
    layer, theirs = ground.features[number], other.features[number]
    stored = theirs.parts["auxiliary"]
    rescaled = ScaledRows(stored, layer.scales / theirs.scales, stored.dtype)
    return _with_pairs(ground, number, other.parts.auxiliary, rescaled)


def _with_pairs(ground: Ground, number: int, part: Part, stored: Any) -> Ground:
    layer = ground.features[number]
    changed = dataclasses.replace(layer, parts={**layer.parts, "auxiliary": stored})
    parts = dataclasses.replace(ground.parts, auxiliary=part)
    return Ground(parts, ground.weights, {number: changed})


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attacker: its knowledge in words, the attack, and the data set with what it owns.

    Of its images, the first `planted` are in the release, and it knows what was released of them.
    """

    words: str
    attack: Attack
    ground: Ground
    planted: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """What a table says of it: its class, and how many images and pairs it has."""
        images, blind = len(self.ground.parts.auxiliary), self.words == MEAN_IMAGE
        public = self.attack.knowledge == NETWORK
        return {
            "class": "" if blind else _CLASSES[self.attack.knowledge],
            "knowledge": self.words,
            "attack": self.attack.name,
            "images": images,
            "pairs": self.planted if public else 0 if blind else images,
        }

    def scene(self, topology: Topology) -> Scenario:
        """Returns a topology with what this attacker has."""
        return dataclasses.replace(self.ground.scene(topology), planted=self.planted)


@dataclasses.dataclass(frozen=True)
class Attackers:
    """Who attacks: with pairs, with the published network, and with everything."""

    pairs: Attack
    public: Attack
    leak: Attack


def cases(
    attackers: Attackers,
    counts: Sequence[int],
    number: int,
    ground: Ground,
    other: Ground | None = None,
) -> Iterator[Case]:
    """Yields all attackers of one layer, by class; `counts` are numbers of pairs."""
    everything = len(ground.parts.auxiliary)
    fewer = [count for count in counts if count < everything]
    yield Case(MEAN_IMAGE, MeanImage(), ground)
    for count in fewer:
        yield Case(f"{count} pairs", attackers.pairs, with_fewer(ground, number, count))
    yield Case(ALL_PAIRS, attackers.pairs, ground)
    others = with_pairs_of(other, ground, number) if other else None
    if others:
        yield Case(OTHER_PAIRS, attackers.pairs, others)
    yield Case(PICTURES, attackers.public, ground)
    if others:
        yield Case(OTHER_PICTURES, attackers.public, others)
    for count in (*fewer, everything):
        words = f"{PICTURES}, {'all' if count == everything else count} planted"
        yield Case(words, attackers.public, ground, planted=count)
    yield Case(EVERYTHING, attackers.leak, ground)


def check_images(several: Iterable[Case]) -> None:
    """Raises UserError where an attacker owns fewer images than its attack takes."""
    for case in several:
        least = getattr(case.attack, "least_pairs", 1)
        check_count(case.attack.name, len(case.ground.parts.auxiliary), least)


def side_by_side(
    of_layer: Sequence[Case], cells: Sequence[Cell]
) -> Iterator[tuple[Attack, list[tuple[Case, Cell]]]]:
    """Yields each attack with the cases, and the draws of one depth, that are fitted together."""
    slow = [case for case in of_layer if optimises_images(case.attack)]
    others = [case for case in of_layer if case not in slow]
    for attack in dict.fromkeys(case.attack for case in others):
        yield attack, [(case, cell) for case in others if case.attack == attack for cell in cells]
    for case in slow:  # one by one: what was measured is kept after minutes, not hours
        yield case.attack, [(case, cell) for cell in cells]
