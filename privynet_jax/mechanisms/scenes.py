"""What attackers of each class have of what is released under a mechanism.

scene = released_scene(clean, mechanism, key)
[fitted] = fit_attack(attack, [scene], [key])
"""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, NETWORK, Knowledge
from privynet_jax.attacks.public.public_layer import LayerRows
from privynet_jax.attacks.scenario import OBSERVED_IMAGES, Scenario
from privynet_jax.backbone.features.layer_features import LayerFeatures, image_features
from privynet_jax.images.parts import Parts
from privynet_jax.mechanisms.mechanism import Local, Mechanism
from privynet_jax.mechanisms.releases import Release, several_copies
from privynet_jax.platform.rows.row_views import ChosenChannels, RowView, remembered


@dataclasses.dataclass(frozen=True)
class Pictures:
    """In a `Topology`'s place where no layer runs on the device: pictures are released."""

    num_layers: ClassVar[int] = 0
    channels: ClassVar[tuple[int, ...]] = (0, 1, 2)
    depth: ClassVar[int] = 3

    def representation_shape(self, image_size: int) -> tuple[int, int, int]:
        """Returns (height, width, depth) of a square picture."""
        return image_size, image_size, self.depth


@dataclasses.dataclass(frozen=True, eq=False)
class ReleasedScene(Scenario):
    """A scenario under a mechanism; whoever is of a class knows mechanism and parameters."""

    release: Release | None = None

    def stored(self, part: str) -> ChosenChannels:
        """Returns all channels that are released, which may be more than the topology's."""
        rows = self.features.parts[part]
        return ChosenChannels(rows, np.arange(rows.shape[-1]), self.width)

    def asked(self, part: str) -> ChosenChannels | RowView:
        """Returns what the cloud NN is asked with, and what the device finishes its answer with."""
        keeps = len(self.release.mechanism.kept(self.release.key)) > 0
        return self.release.asked(part) if keeps else self.stored(part)

    def knowledge(self, name: str) -> Knowledge:
        """Returns what an attacker of this kind knows besides; see `base.KNOWLEDGE`."""
        mechanism = self.release.mechanism
        if name == EVERYTHING:
            secret = None if mechanism.secret_is_fresh else self.release.secret
            known = Knowledge(name, secret=secret)
            if mechanism.releases_pictures:
                return known
            local, made = map(self.filled_up, (self.release.expected(), self.release.made()))
            return dataclasses.replace(known, local=local, made=made)
        if name == NETWORK and mechanism.releases_pictures:
            return Knowledge(name, observed=self.stored("target")[:OBSERVED_IMAGES])
        return super().knowledge(name)


def picture_scene(parts: Parts) -> Scenario:
    """Returns the scenario of parts whose pictures themselves are released."""
    return Scenario(Pictures(), parts, image_features(parts))


def local_features(clean: Scenario, local: Local) -> LayerFeatures:
    """Returns what a local NN makes of a scenario's parts, each row when it is first read."""
    of_auxiliary = LayerRows(local, clean.parts.auxiliary.images)
    rows = {name: remembered(of_auxiliary.on(part.images)) for name, part in clean.parts.items()}
    return LayerFeatures(clean.topology.num_layers, clean.topology.channels, rows, clean.scales)


def averaged(scene: ReleasedScene, repeats: int) -> ReleasedScene:
    """Returns a scene whose pictures were released so often, as their mean; see `Release`."""
    release = dataclasses.replace(scene.release, repeats=repeats)
    return dataclasses.replace(scene, features=release.features(), release=release)


def released_scene(
    clean: Scenario, mechanism: Mechanism, key: jax.Array, copies: int = 1
) -> ReleasedScene:
    """Returns a scenario under a mechanism, from the one without; see `releases.Release`.

    Of mechanisms that release pictures, the one without is `picture_scene`.
    """
    adapting, releasing = jax.random.split(key)
    local = mechanism.local(dataclasses.replace(clean, width=None), adapting)
    layer = local_features(clean, local) if mechanism.trains_local else clean.features
    what = layer, clean.parts, clean.topology
    release = Release(*what, mechanism, releasing, copies, local=local)
    parts = several_copies(clean.parts, auxiliary=copies, target=mechanism.training_copies)
    known = clean.topology, parts, release.features(), clean.weights, clean.width
    return ReleasedScene(*known, copies=copies, release=release)
