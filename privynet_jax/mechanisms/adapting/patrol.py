"""PATROL: pruning, a Lipschitz penalty and adversarial reconstruction.

Ding et al. 2023, arXiv:2307.10981. Needs no attribute: it is pictures that are not to be rebuilt.
There, pruning buys deeper layers for the same computation; here topologies have their layers, and
what is pruned is saved.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from privynet_jax.backbone import split
from privynet_jax.backbone.backbones import Convolution, backbone_named
from privynet_jax.backbone.topology import Topology
from privynet_jax.mechanisms.adapting.adapted import EarlyExit, Params, Seen
from privynet_jax.mechanisms.adapting.masks import kept_of
from privynet_jax.training.models.networks import ResidualAttacker
from privynet_jax.training.tasks import squared_loss

_INVERSION, _MASKS = "inversion", "masks"
# Standard deviation of what is added to pixels in [0, 1], and what keeps a norm from being zero.
_NUDGE, _TINY = 0.02, 1e-6
_WIDTH = 32


@dataclasses.dataclass(frozen=True)
class Patrol(EarlyExit):
    """A pruned local NN whose pictures an inversion network, which learns with it, rebuilds badly.

    Attributes:
        weight: of the inversion network's squared error, which the local NN raises.
        lipschitz: of how strongly blocks of the local NN answer to small changes.
        pruned: share of the channels of every layer but the released one that is left out, rounded
            to whole channels. Which ones, it learns; the first are those of the least weights.
    """

    name: ClassVar[str] = "patrol"
    weight: float = 10.0
    lipschitz: float = 0.1
    pruned: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight", "0 or more", 0 <= self.weight < float("inf"))
        self._check("lipschitz", "0 or more", 0 <= self.lipschitz < float("inf"))
        self._check("pruned", "0 to less than 1", 0 <= self.pruned < 1)

    def begun(self, key: jax.Array, seen: Seen) -> Params:
        """Returns the inversion network, and scores of the inner layers' channels."""
        network = InversionNN(seen.images.shape[1])
        return {_INVERSION: network.init(key, seen.z), _MASKS: _sizes(seen.params, seen.topology)}

    def used(self, params: Params) -> Params:
        """Returns the local NN's parameters with zeros where a channel is pruned."""
        pruned = {
            name: {
                kind: own * kept_of(scores, self.pruned)
                for kind, own in params["local"][name].items()
            }
            for name, scores in params[_MASKS].items()
        }
        return {**params["local"], **pruned}

    def term(self, seen: Seen) -> jax.Array:
        """Returns the inversion network's error, less the weighted one, and the penalty."""
        network, params = InversionNN(seen.images.shape[1]), seen.params[_INVERSION]
        told, fixed = (jax.lax.stop_gradient(each) for each in (seen.z, params))
        learnt = squared_loss(network.apply(params, told), seen.images)
        raised = squared_loss(network.apply(fixed, seen.z), seen.images)
        added = learnt - self.weight * raised
        # Another pass, which is not taken for nothing.
        return added + self.lipschitz * self._answering(seen) if self.lipschitz else added

    def macs(self, shape: tuple[int, ...], topology: Topology) -> int:
        """Returns how many fewer they are without the pruned channels."""
        layers = _convolutions(topology)
        whole = [layer.out_channels for layer in layers[:-1]]
        left = [count - round(self.pruned * count) for count in whole]
        first, last = layers[0].in_channels, topology.depth
        now, before = ((first, *inner, last) for inner in (left, whole))
        return sum(
            (shape[0] // layer.stride) ** 2 * layer.kernel[0] * layer.kernel[1] * (a * b - c * d)
            for layer, (a, b), (c, d) in zip(
                layers, itertools.pairwise(now), itertools.pairwise(before), strict=True
            )
        )

    def _answering(self, seen: Seen) -> jax.Array:
        """The sum over blocks, which are layers, of their local Lipschitz constants."""
        nudged = seen.images + _NUDGE * jax.random.normal(seen.key, seen.images.shape)
        kept, inner = self.used(seen.params), range(1, seen.topology.num_layers)
        backbone = backbone_named(seen.topology.backbone)

        def blocks(images: jax.Array, z: jax.Array) -> list[jax.Array]:
            found = split.activations(backbone, kept, images, inner) if inner else {}
            return [images, *(found[number] for number in inner), z]

        both = blocks(seen.images, seen.z), blocks(nudged, seen.represent(nudged))
        return lipschitz_sum(*both)


class InversionNN(nn.Module):
    """Representation -> picture in [0, 1], by the residual attacker's smallest network."""

    image_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N, image_size, image_size, 3]."""
        # Bounded, so that the local NN cannot raise its error for ever.
        return nn.sigmoid(ResidualAttacker(self.image_size, _WIDTH, num_blocks=1)(x))


def lipschitz_sum(clean: Sequence[jax.Array], nudged: Sequence[jax.Array]) -> jax.Array:
    """Returns the sum over blocks of the most that one's output moves as its input does.

    Each list has the first block's input, then every block's output, [N, ...], of clean pictures
    and of the same with a nudge; the most is over pictures. Moves are root mean squares over an
    output's values, in units of that of the clean outputs, since layers have no scale in common.
    """

    def moves(x: jax.Array, y: jax.Array) -> jax.Array:
        squares = jnp.square(y - x).reshape(len(x), -1).mean(axis=1)
        return jnp.sqrt((squares + _TINY) / (jnp.square(x).mean() + _TINY))

    found = [moves(x, y) for x, y in zip(clean, nudged, strict=True)]
    return sum(jnp.max(after / before) for before, after in itertools.pairwise(found))


def _sizes(params: Params, topology: Topology) -> Params:
    """Inner layers' names -> sums of each channel's weights' magnitudes, of mean 1, [channels]."""
    names = [layer.name for layer in _convolutions(topology)[:-1]]
    sums = {name: jnp.abs(params["local"][name]["kernel"]).sum(axis=(0, 1, 2)) for name in names}
    return {name: found / found.mean() for name, found in sums.items()}


def _convolutions(topology: Topology) -> tuple[Convolution, ...]:
    return backbone_named(topology.backbone).convolutions(topology.num_layers)
