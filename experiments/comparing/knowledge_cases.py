"""The attackers that `compare_knowledge` compares: what each knows and owns, and its attack.

Knowledge is the attack's own (`Attack.knowledge`); what an attacker owns stands in the place of the
auxiliary images.

    for attack, group in side_by_side(cases(layer, LinearInversion(), [10, 100]), cells, pools):
        scenes = [case.scene(cell.topology) for case, cell in group]
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax import Part, Parts, PretrainedWeights, Topology
from privynet_jax.attacks.base import EVERYTHING, NETWORK, OTHER_PAIRS, PAIRS, Attack
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.substitute import ALIGNED, MIXED, RANDOM_GUESS, PublicLayer, Substitute
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.platform.row_views import ChosenRows, RowView
from privynet_jax.results.cells import Cell

MEAN_IMAGE = "nothing: the mean image"
# Draw -> channels that it is known to be made from; None: all.
Pools = Mapping[int, tuple[int, ...] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A data set with all channels of one layer."""

    parts: Parts
    features: LayerFeatures
    weights: PretrainedWeights

    @property
    def public(self) -> PublicLayer:
        """The layer on the attacker's images, as anybody represents them."""
        return PublicLayer.of_features(self.features, "auxiliary", None)

    def scene(self, topology: Topology) -> Scenario:
        """Returns the scenario in which only some channels are released."""
        return Scenario(topology, self.parts, self.features, self.weights)

    def chosen(self, rows: Mapping[str, np.ndarray]) -> "Layer":
        """Returns the layer on some rows of some parts, by their names."""
        parts = {name: getattr(self.parts, name) for name in rows}
        fewer = {n: Part(part.images[rows[n]], part.labels[rows[n]]) for n, part in parts.items()}
        stored = {name: ChosenRows(self.features.parts[name], rows[name]) for name in rows}
        return self._with(fewer, stored)

    def with_pairs_of(self, other: "Layer") -> "Layer":
        """Returns it with pairs of another data set's images that the attacked device made."""
        stored, ratio = other.features.parts["auxiliary"], self.features.scales
        rescaled = _Rescaled(stored, ratio / other.features.scales)
        return self._with({"auxiliary": other.parts.auxiliary}, {"auxiliary": rescaled})

    def _with(self, parts: Mapping[str, Part], stored: Mapping[str, Any]) -> "Layer":
        features = dataclasses.replace(self.features, parts={**self.features.parts, **stored})
        return Layer(dataclasses.replace(self.parts, **parts), features, self.weights)


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

    def scene(self, topology: Topology) -> Scenario:
        """Returns what it attacks."""
        return self.layer.scene(topology)

    @property
    def images(self) -> int:
        """How many it owns."""
        return len(self.layer.parts.auxiliary)


def halves(layer: Layer) -> tuple[Layer, Layer]:
    """Returns the layer on classes of even number, and on odd ones."""
    even, odd = (
        {name: np.flatnonzero(part.labels % 2 == rest) for name, part in layer.parts.items()}
        for rest in (0, 1)
    )
    return layer.chosen(even), layer.chosen(odd)


def cases(
    layer: Layer,
    attack: Attack,
    counts: Sequence[int],
    *,
    other: Layer | None = None,
    ascending: bool = False,
    white_box: bool = False,
) -> Iterator[Case]:
    """Yields all attackers of one layer: by knowledge, then by the number of pairs.

    Args:
        layer: with all channels.
        attack: that all of them fit; it needs pairs alone.
        counts: numbers of pairs, beside all of them.
        other: the layer on another data set.
        ascending: whether channels are known to be in the layer's order.
        white_box: whether there is an attacker who knows the channels, and optimises each image.
    """
    yield Case(MEAN_IMAGE, MeanImage(), layer)
    yield Case(PAIRS, attack, layer)
    if other:
        yield Case(OTHER_PAIRS, attack, layer.with_pairs_of(other))
    if white_box:
        yield Case(EVERYTHING, WhiteBox(attack), layer)
    public = layer.public
    for guessing in (RANDOM_GUESS, MIXED, ALIGNED):
        substitute = Substitute(attack, guessing, ascending=ascending, public=public)
        yield Case(f"{NETWORK}, {guessing} guess", substitute, layer)
    if other:
        substitute = Substitute(attack, ALIGNED, ascending=ascending, public=other.public)
        words = f"{NETWORK}, {ALIGNED} guess, other pictures"
        yield Case(words, substitute, layer.with_pairs_of(other))
    for count in counts:
        if count < len(layer.parts.auxiliary):
            yield Case(f"{count} pairs", attack, layer.chosen({"auxiliary": np.arange(count)}))


def side_by_side(
    of_layer: Sequence[Case], cells: Sequence[Cell], pools: Pools
) -> Iterator[tuple[Attack, list[tuple[Case, Cell]]]]:
    """Yields each attack with the cases and draws that are fitted together.

    Args:
        of_layer: all cases.
        cells: draws of one depth.
        pools: what each is known to be drawn from.
    """
    substitutes = [case for case in of_layer if isinstance(case.attack, Substitute)]
    others = [case for case in of_layer if case not in substitutes]
    for attack in dict.fromkeys(case.attack for case in others):
        yield attack, [(case, cell) for case in others if case.attack == attack for cell in cells]
    for case in substitutes:  # one by one: each has representations of its own making in memory
        for cell in cells:
            yield dataclasses.replace(case.attack, candidates=pools[cell.draw]), [(case, cell)]
