"""What an attacker has who sees one picture at several cuts: their representations side by side.

    scene = joined_scene([scenario_of_4_layers, scenario_of_7_layers])
    [fitted] = fit_attack(attack, [scene], [key])  # as on any other

Smaller maps are enlarged to the largest, each position repeated, so that any attacker with pairs
takes them for channels of one layer. Channels of one layer that several cuts release come once.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.platform.rows.row_views import ChosenChannels, RowView


@dataclasses.dataclass(frozen=True)
class SeveralCuts:
    """In a `Topology`'s place where several cuts are released: the first one, and all channels."""

    num_layers: int
    depth: int

    @property
    def channels(self) -> tuple[int, ...]:
        """Numbers of the joined channels, not of a layer's."""
        return tuple(range(self.depth))


class JoinedMaps(RowView):
    """Maps [N, h, w, D] of any sizes as [N, largest h, largest w, sum of D], read as asked for."""

    def __init__(self, maps: Sequence[Any]) -> None:
        """Keeps arrays or views with as many rows each."""
        height, width = (max(own.shape[axis] for own in maps) for axis in (1, 2))
        shape = len(maps[0]), height, width, sum(own.shape[3] for own in maps)
        super().__init__(shape, np.result_type(*(own.dtype for own in maps)))
        self._maps = maps

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([self._enlarged(own[numbers]) for own in self._maps], axis=-1)

    def _enlarged(self, values: np.ndarray) -> np.ndarray:
        """The nearest position of each; sizes need not divide one another."""
        rows, columns = (
            np.arange(size) * values.shape[axis] // size
            for axis, size in ((1, self.shape[1]), (2, self.shape[2]))
        )
        return values[:, rows][:, :, columns].astype(self.dtype, copy=False)


def joined_scene(scenes: Sequence[Scenario]) -> Scenario:
    """Returns the scenario of an attacker with pairs who has every scene's release of a picture.

    The scenes are of the same parts, and of any layers. No attacker who needs the local NN can be
    fitted on it.
    """
    by_layer = {scene.topology.num_layers: scene.features for scene in scenes}
    parts, scales = scenes[0].parts, []
    maps: dict[str, list[ChosenChannels]] = {name: [] for name in scenes[0].features.parts}
    for number, channels in _united(scenes).items():
        features = by_layer[number]
        positions = features.positions(channels)
        scales.append(features.scales[positions])
        for name, own in maps.items():
            own.append(ChosenChannels(features.parts[name], positions))
    joined = {name: JoinedMaps(own) for name, own in maps.items()}
    topology = SeveralCuts(min(by_layer), sum(map(len, scales)))
    first, channels = topology.num_layers, topology.channels
    return Scenario(topology, parts, LayerFeatures(first, channels, joined, np.concatenate(scales)))


def joined_places(scenes: Sequence[Scenario]) -> list[tuple[int, ...]]:
    """Returns which of the joined scene's channels are each scene's own, in its order."""
    joined = [(number, c) for number, channels in _united(scenes).items() for c in channels]
    places = {own: place for place, own in enumerate(joined)}
    of = [(scene.topology.num_layers, scene.topology.channels) for scene in scenes]
    return [tuple(places[number, c] for c in channels) for number, channels in of]


def _united(scenes: Sequence[Scenario]) -> dict[int, list[int]]:
    """Layer -> the channels that any of the scenes releases there; both ascending."""
    united: dict[int, set[int]] = {}
    for scene in scenes:
        united.setdefault(scene.topology.num_layers, set()).update(scene.topology.channels)
    return {number: sorted(united[number]) for number in sorted(united)}
