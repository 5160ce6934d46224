"""The attackers that `compare_knowledge` compares: what each knows and owns, and its attack.

found = cases(layer, scene, LinearInversion(), counts=[10, 100], pool=None, ascending=False)
for case, attack in fitted(found, key):
    quality = measure(attack, scene)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    NETWORK,
    OTHER_PAIRS,
    PAIRS,
    Attack,
    FittedAttack,
    Knowledge,
    Pairs,
)
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.substitute import (
    ALIGNED,
    MIXED,
    RANDOM_GUESS,
    PublicLayer,
    Substitute,
)
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import Part, Parts
from privynet_jax.platform.row_views import ChosenRows

MEAN_IMAGE = "nothing: the mean image"


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What all draws of one layer share.

    Attributes:
        whole: the scenario in which all channels are released.
        public: the layer on the attacker's auxiliary images.
        other: the same two for the other data set, where there is one.
    """

    whole: Scenario
    public: PublicLayer
    other: tuple[Scenario, PublicLayer] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attacker: what it knows and has, and the attack."""

    words: str
    attack: Attack
    pairs: Pairs
    knowledge: Knowledge
    images: int


def halves(parts: Parts) -> list[dict[str, np.ndarray]]:
    """Returns part -> rows of its classes of even number, and the same for odd ones."""
    return [
        {name: np.flatnonzero(part.labels % 2 == odd) for name, part in parts.items()}
        for odd in (0, 1)
    ]


def with_rows(
    parts: Parts, features: LayerFeatures, rows: Mapping[str, np.ndarray]
) -> tuple[Parts, LayerFeatures]:
    """Returns parts and features of some rows alone."""
    fewer = {
        name: Part(part.images[rows[name]], part.labels[rows[name]]) for name, part in parts.items()
    }
    stored = {name: ChosenRows(features.parts[name], rows[name]) for name in rows}
    return dataclasses.replace(parts, **fewer), dataclasses.replace(features, parts=stored)


def cases(
    layer: Layer,
    scene: Scenario,
    inner: Attack,
    counts: Sequence[int],
    pool: tuple[int, ...] | None,
    ascending: bool,
    white_box: bool = False,
) -> Iterator[Case]:
    """Yields all attackers of one topology: by knowledge, then by the number of pairs.

    Args:
        layer: of the topology.
        scene: the topology's own.
        inner: the attack that all of them fit.
        counts: numbers of pairs, beside all of them.
        pool: candidates that the channels are known to be drawn from; None means all.
        ascending: whether they are known to be in the layer's order.
        white_box: whether there is an attacker who knows the channels, and optimises each image.
    """
    pairs, network, images = scene.pairs(), scene.knowledge(NETWORK), scene.images_alone()
    everything = len(pairs.images)

    def substitute(guessing: str, public: PublicLayer) -> Substitute:
        return Substitute(inner, guessing, pool, ascending, public)

    yield Case(MEAN_IMAGE, MeanImage(), pairs, Knowledge(PAIRS), everything)
    yield Case(PAIRS, inner, pairs, Knowledge(PAIRS), everything)
    if layer.other:
        made = other_pairs(layer.other[0], scene)
        yield Case(OTHER_PAIRS, inner, made, Knowledge(OTHER_PAIRS), len(made.images))
    if white_box:
        knowing = WhiteBox(inner)
        yield Case(EVERYTHING, knowing, pairs, scene.knowledge(EVERYTHING), everything)
    for guessing in (RANDOM_GUESS, MIXED, ALIGNED):
        attack = substitute(guessing, layer.public)
        yield Case(f"{NETWORK}, {guessing} guess", attack, images, network, everything)
    if layer.other:
        own = Pairs(images.representations, layer.other[0].parts.auxiliary.images)
        words = f"{NETWORK}, {ALIGNED} guess, other pictures"
        attack = substitute(ALIGNED, layer.other[1])
        yield Case(words, attack, own, network, len(own.images))
    for count in counts:
        if count < everything:
            fewer = pairs.chosen(slice(count))
            yield Case(f"{count} pairs", inner, fewer, Knowledge(PAIRS), count)


def fitted(found: Iterable[Case], key: jax.Array) -> Iterator[tuple[Case, FittedAttack]]:
    """Yields each case with its attack, fitted; all of them with the same key.

    Attackers are compared draw by draw, where initial values and orders of their own would only add
    noise to the differences; and no one's numbers depend on who else is compared.

    Args:
        found: as `cases` yields them, of one draw.
        key: of the draw.
    """
    for case in found:
        yield case, case.attack.fit(case.pairs, case.knowledge, key)


def released(whole: Scenario, topology: Topology) -> Scenario:
    """Returns the scenario in which only some channels of the layer are released."""
    return dataclasses.replace(whole, topology=topology)


def other_pairs(whole: Scenario, scene: Scenario) -> Pairs:
    """Returns pairs of another data set's auxiliary images, as the attacked device makes them.

    Args:
        whole: the other data set's scenario, with all channels of the layer.
        scene: under attack.
    """
    theirs = released(whole, scene.topology)
    made = theirs.pairs()
    return Pairs(made.representations[:] * (scene.scales / theirs.scales), made.images)
