"""The attackers that `compare_knowledge` compares: what each knows and owns, and its attack.

Knowledge is the attack's own (`Attack.knowledge`); what an attacker owns stands in the place of the
auxiliary images.

    for attack, group in side_by_side(cases(LinearInversion(), [10, 100], layer), cells):
        scenes = [case.layer.scene(cell.topology) for case, cell in group]
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from privynet_jax import Part, Parts, PretrainedWeights, Topology
from privynet_jax.attacks.base import NETWORK, OTHER_PAIRS, PAIRS, Attack
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.substitute import ALIGNED, MIXED, RANDOM_GUESS, PublicLayer, Substitute
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.platform.row_views import ChosenRows, RowView
from privynet_jax.results.cells import Cell

MEAN_IMAGE = "nothing: the mean image"


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A data set with all channels of one layer."""

    parts: Parts
    features: LayerFeatures
    weights: PretrainedWeights

    @property
    def public(self) -> PublicLayer:
        """The layer on the attacker's images, as anybody represents them."""
        return PublicLayer(self.features.parts["auxiliary"])

    def scene(self, topology: Topology) -> Scenario:
        """Returns the scenario in which only some channels are released."""
        return Scenario(topology, self.parts, self.features, self.weights)

    def with_fewer(self, count: int) -> "Layer":
        """Returns it with the first so many pairs."""
        part, rows = self.parts.auxiliary, np.arange(count)
        stored = ChosenRows(self.features.parts["auxiliary"], rows)
        return self._with_pairs(Part(part.images[rows], part.labels[rows]), stored)

    def with_pairs_of(self, other: "Layer") -> "Layer":
        """Returns it with pairs of another data set's images that the attacked device made."""
        stored = other.features.parts["auxiliary"]
        rescaled = _Rescaled(stored, self.features.scales / other.features.scales)
        return self._with_pairs(other.parts.auxiliary, rescaled)

    def _with_pairs(self, part: Part, stored: Any) -> "Layer":
        features = {**self.features.parts, "auxiliary": stored}
        return Layer(
            dataclasses.replace(self.parts, auxiliary=part),
            dataclasses.replace(self.features, parts=features),
            self.weights,
        )


class _Rescaled(RowView):
    """Rows whose channels are multiplied as they are read."""

    def __init__(self, stored: Any, factors: np.ndarray) -> None:
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._factors = stored, factors

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return (self._stored[numbers] * self._factors).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attacker: its knowledge in words, the attack, and the layer with what it owns."""

    words: str
    attack: Attack
    layer: Layer

    @property
    def images(self) -> int:
        """How many it owns."""
        return len(self.layer.parts.auxiliary)


def cases(
    attack: Attack, counts: Sequence[int], layer: Layer, other: Layer | None = None
) -> Iterator[Case]:
    """Yields all attackers of one layer: by knowledge, then by the number of pairs.

    All fit the same attack, which needs pairs alone; `other` is the layer on another data set.
    """
    yield Case(MEAN_IMAGE, MeanImage(), layer)
    yield Case(PAIRS, attack, layer)
    if other:
        yield Case(OTHER_PAIRS, attack, layer.with_pairs_of(other))
    public = layer.public
    for guessing in (RANDOM_GUESS, MIXED, ALIGNED):
        knowing = Substitute(attack, guessing, public=public)
        yield Case(f"{NETWORK}, {guessing} guess", knowing, layer)
    if other:
        knowing = Substitute(attack, ALIGNED, public=other.public)
        words = f"{NETWORK}, {ALIGNED} guess, other pictures"
        yield Case(words, knowing, layer.with_pairs_of(other))
    for count in counts:
        if count < len(layer.parts.auxiliary):
            yield Case(f"{count} pairs", attack, layer.with_fewer(count))


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
