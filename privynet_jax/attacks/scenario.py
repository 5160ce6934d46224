"""One topology under attack: the data of each party, and the score of an attack.

The attacker owns auxiliary images; target images are what it is after; validation and test images
are like them and are there to score by. Representations come from the feature cache.

    scene = make_scenario(weights, parts, Topology(4, (3, 17, 90)), cache_dir="cache")
    fitted = attack.fit(scene.pairs(), scene.knowledge(PAIRS), key)
    quality = measure(fitted, scene, "test")  # {"psnr_db": [N], "ssim": [N]}
"""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    NETWORK,
    FittedAttack,
    Knowledge,
    Pairs,
    Representing,
)
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.images.metrics import image_quality
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.devices import at_once, nbytes
from privynet_jax.platform.row_views import ChosenRows, RowView

# Representations that an attacker without pairs looks at, of the release under attack.
OBSERVED_IMAGES = 1024
# Representations are held in memory if all that are asked for are no larger, as the cache's are.
_HELD_BYTES = 2**29
_SCORED_AT_ONCE, _SCORED_BYTES = 256, 2**27
_quality = jax.jit(image_quality)


@dataclasses.dataclass(frozen=True, eq=False)
class Scenario:
    """What there is to know about one topology; each attack is shown its own share of it.

    Attributes:
        topology: what is attacked.
        parts: the images; `features` are theirs.
        weights: the pretrained network.
        features: of the topology's layer, with at least its channels.
    """

    topology: Topology
    parts: Parts
    weights: PretrainedWeights
    features: LayerFeatures

    @property
    def scales(self) -> np.ndarray:
        """Of the released channels, which they normalise, float32 [depth]; the owner's secret."""
        return self.features.scales[self.features.positions(self.topology.channels)]

    def representations(self, part: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Returns normalised representations of a part, float32 [n, h, w, depth].

        Args:
            part: its name.
            rows: which images; all by default.
        """
        return np.float32(_Released(self.features, part, self.topology)[rows])

    def stored(self, part: str, rows: slice = slice(None)) -> Any:
        """Returns the same as `representations` in the cache's type, float16 as a rule.

        Where they are large it is no array, but reads rows as they are asked for (`row_views`).
        """
        released = _Released(self.features, part, self.topology)
        chosen = ChosenRows(released, np.arange(len(released))[rows])
        return chosen[:] if nbytes(chosen) <= _HELD_BYTES else chosen

    def pairs(self, count: int | None = None) -> Pairs:
        """Returns the attacker's pairs: the first so many auxiliary images, by default all."""
        rows = slice(count)
        return Pairs(self.stored("auxiliary", rows), self.parts.auxiliary.images[rows])

    def images_alone(self) -> Pairs:
        """Returns auxiliary images whose representations nobody made, for `NETWORK`."""
        return Pairs(self.stored("auxiliary", slice(0)), self.parts.auxiliary.images)

    def knowledge(self, name: str) -> Knowledge:
        """Returns what an attacker of this kind knows; see `interface.KNOWLEDGE`."""
        return Knowledge(
            name,
            local=self._local() if name == EVERYTHING else None,
            layer=self._layer() if name in (EVERYTHING, NETWORK) else None,
            observed=self.stored("target", slice(OBSERVED_IMAGES)) if name == NETWORK else None,
        )

    def _local(self) -> Representing:
        local, scales = local_nn(self.weights.params, self.topology), self.scales
        return lambda images: local(images) * scales

    def _layer(self) -> Representing:
        everything = range(self.topology.layer.channels)
        return local_nn(
            self.weights.params, dataclasses.replace(self.topology, channels=everything)
        )


class _Released(RowView):
    """A part's released channels, in the cache's type, read as they are asked for."""

    def __init__(self, features: LayerFeatures, part: str, topology: Topology) -> None:
        stored = features.parts[part]
        super().__init__((*stored.shape[:3], topology.depth), stored.dtype)
        self._features, self._part = features, part
        self._positions = features.positions(topology.channels)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return self._features.gather(self._part, numbers, self._positions, self.shape[-1])


def make_scenario(
    weights: PretrainedWeights,
    parts: Parts,
    topology: Topology,
    cache_dir: os.PathLike[str] | str,
    *,
    features: LayerFeatures | None = None,
    dtype: str = "float32",
) -> Scenario:
    """Returns the scenario of a topology.

    Args:
        weights: the pretrained network.
        parts: the images.
        topology: what is attacked.
        cache_dir: of features, which are computed where it lacks them.
        features: of the topology's layer, where they are at hand; else they are loaded.
        dtype: of features that are loaded.

    Raises:
        UserError: features cannot be had.
    """
    num_layers = topology.num_layers
    if features is None:
        union = {num_layers: tuple(sorted(topology.channels))}
        features = load_features(weights, parts, union, cache_dir, dtype=dtype)[num_layers]
    return Scenario(topology, parts, weights, features)


def measure(
    fitted: FittedAttack,
    scenario: Scenario,
    part: str = "test",
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns how well an attack rebuilds images: "psnr_db" and "ssim", float32 [n] each.

    Args:
        fitted: the attack.
        scenario: whose representations it is given.
        part: whose images are attacked.
        rows: which of them; all by default.
    """
    images = getattr(scenario.parts, part).images
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    values = np.prod(scenario.features.parts[part].shape[1:3]) * scenario.topology.depth
    size = at_once(_SCORED_AT_ONCE, 4 * int(values), _SCORED_BYTES)
    found: list[dict[str, np.ndarray]] = []
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        estimates = fitted.reconstruct(scenario.representations(part, chosen))
        truth = as_float(images[chosen])
        found.append(jax.device_get(_quality(np.clip(estimates, 0, 1), truth)))
    return {metric: np.concatenate([each[metric] for each in found]) for metric in found[0]}
