"""One topology under attack: the data of each party, and the score of an attack.

The attacker owns auxiliary images; target images are what it is after; validation and test images
are like them and are there to score by. Representations come from the feature cache.

    scene = make_scenario(weights, parts, Topology(4, (3, 17, 90)), cache_dir="cache")
    [fitted] = fit_attack(attack, [scene], [key])
    score(fitted, scene, "test")["psnr_db"]  # float32 [N]
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    NETWORK,
    PAIRS,
    Attack,
    FittedAttack,
    Knowledge,
    Network,
    Pairs,
    Representing,
    scaled,
)
from privynet_jax.attacks.inference.reidentification import identified
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.split import layer_nn, local_nn, with_tiles
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import privacy_loss
from privynet_jax.images.partition import galleries
from privynet_jax.images.parts import Parts, as_bytes, as_float
from privynet_jax.platform.devices import at_once, data_parallel, on_cpu
from privynet_jax.platform.rows.row_views import ChosenChannels, ChosenRows, RowView
from privynet_jax.training.session import current_session

# Representations that an attacker without pairs looks at, of the release under attack.
OBSERVED_IMAGES = 1024
_SCORED_AT_ONCE, _SCORED_BYTES = 256, 2**27
_quality = jax.jit(privacy_loss)


@dataclasses.dataclass(frozen=True, eq=False)
class Scenario:
    """What there is to know about one topology; each attack is shown its own share of it.

    Attributes:
        topology: what is attacked.
        parts: the images; `features` are theirs.
        features: of the topology's layer, with at least its channels.
        weights: of the local NN; None where no attack needs it.
        width: channels to which representations are filled up with zeros, so that topologies of
            one layer have one shape; None leaves them as they are.
        copies: rows of the auxiliary part that there are of each image.
        planted: rows of the auxiliary part, the first ones, whose representations an attacker of
            `NETWORK` has because it planted these images.
    """

    topology: Topology
    parts: Parts
    features: LayerFeatures
    weights: PretrainedWeights | None = None
    width: int | None = None
    copies: int = 1
    planted: int = 0

    @property
    def scales(self) -> np.ndarray:
        """Of the released channels, which they normalise, float32 [depth]; the owner's secret."""
        return self.features.scales[self.features.positions(self.topology.channels)]

    def stored(self, part: str) -> ChosenChannels:
        """Returns a part's normalised representations [N, h, w, width], in the cache's type."""
        positions = self.features.positions(self.topology.channels)
        return ChosenChannels(self.features.parts[part], positions, self.width)

    def representations(self, part: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Returns the same as float32, of some of the images; by default of all."""
        return np.float32(self.stored(part)[rows])

    def asked(self, part: str) -> ChosenChannels | RowView:
        """Returns what the cloud NN answers: what is stored."""
        return self.stored(part)

    def pairs(self, knowledge: str = PAIRS) -> Pairs:
        """Returns what an attacker of this knowledge owns; for `NETWORK` images alone."""
        Knowledge(knowledge)  # UserError where nobody knows that
        stored = self.stored("auxiliary")
        owned = stored[:0] if knowledge == NETWORK else stored
        return Pairs(owned, self.parts.auxiliary.images, self.copies)

    def knowledge(self, name: str) -> Knowledge:
        """Returns what an attacker of this kind knows besides; see `base.KNOWLEDGE`."""
        if name == NETWORK:
            known = public_knowledge(self._weights, self.topology, self.stored("target"))
            return dataclasses.replace(known, planted=self._planted()) if self.planted else known
        return Knowledge(name, local=self._local() if name == EVERYTHING else None)

    def _planted(self) -> Pairs:
        most = len(self.parts.auxiliary)
        if not 0 < self.planted <= most:
            raise UserError(
                f"planted images are {self.planted}; allowed is 1 to {most}, as many as there are "
                "auxiliary images"
            )
        rows = np.arange(self.planted)
        images = self.parts.auxiliary.images[rows]
        return Pairs(ChosenRows(self.stored("auxiliary"), rows), images, self.copies)

    def _local(self) -> Representing:
        # A pass and its gradient take half the time so.
        local = local_nn(self._weights.params, self.topology, tiled=on_cpu())
        return scaled(local, self.scales, self.width)

    def filled_up(self, local: Representing) -> Representing:
        """Returns a local NN that fills its representations up, as `width` says."""
        unused = (self.width or self.topology.depth) - self.topology.depth
        return lambda x: jax.numpy.pad(local(x), ((0, 0), (0, 0), (0, 0), (0, unused)))

    @property
    def _weights(self) -> PretrainedWeights:
        if self.weights is None:
            raise UserError(
                "this attack needs the local NN itself, which these representations do not come "
                "from alone; leave the white box and public out"
            )
        return self.weights


def public_knowledge(
    weights: PretrainedWeights, topology: Topology, release: np.ndarray | RowView
) -> Knowledge:
    """Returns what anybody knows: the weights, and of a release [N, h, w, D] its first rows.

    Of the topology it tells the size of the representation alone.
    """
    stride, cuts = topology.layer.stride, weights.backbone.cuts
    return Knowledge(
        NETWORK,
        network=_public_network(weights, tuple(c.number for c in cuts if c.stride == stride)),
        observed=release[:OBSERVED_IMAGES],
    )


@functools.lru_cache(maxsize=2)  # no more: they hold parameters
def _public_network(weights: PretrainedWeights, layers: tuple[int, ...]) -> Network:
    """One object for all topologies."""
    names = ("preprocessing", *(own.name for own in weights.backbone.convolutions(max(layers))))
    params = jax.tree.map(jax.numpy.asarray, {name: weights.params[name] for name in names})
    if on_cpu():  # a pass and its gradient take less time, most at deep layers
        params = jax.jit(with_tiles)(params)
    # Where programs want them, so that no program brings them there once more.
    params = jax.device_put(params, data_parallel()[1])
    return {n: functools.partial(layer_nn, weights.backbone, params, n) for n in layers}


def make_scenario(
    weights: PretrainedWeights,
    parts: Parts,
    topology: Topology,
    cache_dir: os.PathLike[str] | str,
    *,
    features: LayerFeatures | None = None,
    dtype: str = "float32",
) -> Scenario:
    """Returns the scenario of a topology under attack.

    Without `features` of its layer at hand, they are loaded as `dtype` from the feature cache in
    `cache_dir`, or computed and kept there where it lacks them. `weights` are of the local NN.

    Raises:
        UserError: features cannot be had.
    """
    num_layers = topology.num_layers
    if features is None:
        union = {num_layers: tuple(sorted(topology.channels))}
        features = load_features(weights, parts, union, cache_dir, dtype=dtype)[num_layers]
    return Scenario(topology, parts, features, weights)


def fit_attack(
    attack: Attack, scenes: Sequence[Scenario], keys: Sequence[jax.Array]
) -> list[FittedAttack]:
    """Fits an attack on topologies of one layer, and shows it no more than it is to know."""
    shown = [scene.pairs(attack.knowledge) for scene in scenes]
    known = [scene.knowledge(attack.knowledge) for scene in scenes]
    return attack.fit(shown, known, keys)


def answered(
    fitted: FittedAttack, representations: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns estimates float32 [N, H, W, 3] in [0, 1], and the `privacy_loss` of each image.

    What is not PSNR is of the likest estimates. Images are uint8 [N, H, W, 3].
    """
    truth = as_float(images)
    nearest = np.clip(fitted.reconstruct(representations), 0, 1)
    found = jax.device_get(_quality(nearest, truth))
    if fitted.likest is not None:
        likest = jax.device_get(_quality(np.clip(fitted.likest(representations), 0, 1), truth))
        found = {**likest, "psnr_db": found["psnr_db"]}
    return nearest, found


def score(
    fitted: FittedAttack,
    scenario: Scenario,
    part: str = "test",
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns the `privacy_loss` of a part's images, or of some rows, float32 [n] by name.

    And of test images, "identified": `reidentification.identified`, in `partition.galleries` of
    what is scored.
    """
    images, stored = getattr(scenario.parts, part).images, scenario.stored(part)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    size = at_once(_SCORED_AT_ONCE, 4 * int(np.prod(stored.shape[1:])), _SCORED_BYTES)
    found: list[dict[str, np.ndarray]] = []
    for gallery in np.array_split(rows, galleries(len(rows))):
        rebuilt = np.empty((len(gallery), *images.shape[1:]), np.uint8)
        for start in range(0, len(gallery), size):
            chosen = gallery[start : start + size]
            estimates, quality = answered(fitted, np.float32(stored[chosen]), images[chosen])
            found.append(quality)
            rebuilt[start : start + size] = as_bytes(estimates)
            current_session().give_way()
        if part == "test":
            found[-1]["identified"] = identified(rebuilt, images[gallery])
    names = dict.fromkeys(name for each in found for name in each)
    return {n: np.concatenate([each[n] for each in found if n in each]) for n in names}
