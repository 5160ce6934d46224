"""Rotation: a picture's features, hidden among others' by an angle that each query draws anew.

What is released is z = exp(i angle) (a + i b) of the picture's features a and those of another
picture, b (Xiang et al., arXiv:1901.09546); or o f o* of three imaginary parts, those of two other
pictures among them, by a unit quaternion o without a real one (Zhang et al., arXiv:2006.13016). The
cloud NN commutes with that, so that the device turns the answer back, and decodes it. The cloud
owns its training pictures; queries alone are private.

    mechanism = parse_mechanism("rotation:critic=1")
    mechanism.of_representation(others, key, x)  # float32 [h, w, 2 * D]

The local NN learns on public pictures first (`adapted`), without its last ReLU, and against a
critic for which features of wrong angles are to look like right ones. The published critic is a
WGAN's; here it has a logistic loss, and learns beside the local NN in one loop. The other pictures
are the device's own, the part `validation`, which no attacker has: who has them finds the angle.

The third other picture of the quaternions would be their real part, which turns leave alone: it
hides nothing, and is not sent.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, PAIRS, Attack
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone import split
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import (
    EarlyExit,
    Params,
    Seen,
    applied,
    pretrained_params,
)
from privynet_jax.mechanisms.disguises.undoing import seen_through
from privynet_jax.mechanisms.mechanism import Local
from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.angle_search import AngleSearch
from privynet_jax.mechanisms.rotations.critic import Critic
from privynet_jax.mechanisms.rotations.equivariant import ANSWER_WIDTH, EquivariantNN
from privynet_jax.mechanisms.rotations.repeated import common_part

# Pictures of the device's own, as many as it keeps features of; and public ones to measure by.
_OTHERS, _MEASURED = 256, 256
_CRITIC = "critic"
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Rotation(EarlyExit):
    """Two parts, turned as complex numbers.

    Attributes:
        critic: weight of what the critic is to be deceived in, beside the exit's cross-entropy; 0:
            there is no critic.
    """

    name: ClassVar[str] = "rotation"
    is_random: ClassVar[bool] = True
    training_copies: ClassVar[int] = 4
    first_is_clean: ClassVar[bool] = False
    secret_is_fresh: ClassVar[bool] = True
    parts: ClassVar[int] = 2
    tries: ClassVar[int] = 36  # turns that an attacker tries: every 10 degrees
    critic: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("critic", "0 or more", 0 <= self.critic < float("inf"))

    def turn(self, key: jax.Array) -> jax.Array:
        """Returns a random turn, float32 [P, P]."""
        return turns.of_angles(jax.random.uniform(key, maxval=2 * jnp.pi))

    def turns(self, count: int) -> jax.Array:
        """Returns turns that are spread evenly over all that there are, float32 [count, P, P]."""
        return turns.of_angles(turns.spread_angles(count))

    def representing(self, clean: Scenario) -> Callable[[Params, jax.Array], jax.Array]:
        """Returns the same for features of any sign, at first of mean 0 and deviation 1."""
        topology = clean.topology
        before = jax.tree.map(jnp.asarray, pretrained_params(clean))
        pictures = as_float(clean.parts.auxiliary.images[:_MEASURED])
        plain = split.apply(topology, before, pictures, is_rectified=False)
        mean, spread = (f(plain, axis=(0, 1, 2)) for f in (jnp.mean, jnp.std))

        def represent(params: Params, images: jax.Array) -> jax.Array:
            x = applied(topology, params, images, is_rectified=False)
            return (x - mean) / jnp.maximum(spread, _TINY)

        return represent

    def begun(self, key: jax.Array, seen: Seen) -> Params:
        """Returns the critic, if there is one."""
        return {_CRITIC: Critic().init(key, seen.z)} if self.critic else {}

    def term(self, seen: Seen) -> jax.Array | float:
        """Returns the critic's loss, and the weighted one of the local NN, which deceives it."""
        if not self.critic:
            return 0.0
        critic, params = Critic(), seen.params[_CRITIC]
        both = jnp.concatenate([seen.z, self._wrongly_turned_back(seen.z)])
        signs = jnp.repeat(jnp.array([1.0, -1.0]), len(seen.z))
        learns = critic.apply(params, jax.lax.stop_gradient(both))
        hides = critic.apply(jax.lax.stop_gradient(params), both)
        losses = jax.nn.softplus(-signs * learns) + self.critic * jax.nn.softplus(signs * hides)
        return jnp.mean(losses)

    def prepared(self, secret: Any, local: Local | None, own: np.ndarray) -> jax.Array:
        """Returns features of the device's own pictures, float32 [V, h, w, D]."""
        if len(own) < self.parts - 1:
            raise UserError(
                f"{self} hides a picture behind {self.parts - 1} of the part validation, which has "
                f"{len(own)}; give more images"
            )
        return jax.jit(local)(as_float(own[:_OTHERS]))

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Turns it into others; of the secret these are chosen from."""
        turning, choosing = jax.random.split(key)
        others = (self.parts - 1,)
        chosen = jax.random.choice(choosing, len(secret), others, replace=False)
        hidden = jnp.concatenate([x[None], secret[chosen]])
        return turns.packed(turns.turned(self.turn(turning), hidden))

    def kept(self, key: jax.Array) -> jax.Array:
        """Returns what turns the answer back, float32 [P]."""
        turning, _ = jax.random.split(key)
        return self.turn(turning)[:, 0]

    def expected(self, x: jax.Array) -> jax.Array:
        """Returns what is left where the turn is known, and nothing else: other parts are 0."""
        return jnp.concatenate([x, *[jnp.zeros_like(x)] * (self.parts - 1)], axis=-1)

    def depth(self, depth: int) -> int:
        """Of each part as many."""
        return self.parts * depth

    def macs(self, shape: tuple[int, ...], topology: Topology) -> int:
        """Returns those of the decoder's wide layer; its last one and turns take thousands."""
        return ANSWER_WIDTH**2

    def cloud_nn(self, num_answers: int, image_size: int) -> nn.Module:
        """Returns the one that commutes with turns, with its decoder."""
        return EquivariantNN(num_answers, image_size, self.parts)

    def mean_of(self, several: np.ndarray) -> np.ndarray:
        """Returns what all releases of a picture have in common, instead (`repeated`)."""
        return common_part(several, self.parts)

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """Returns searches for the angle, by pairs alone and by the local NN."""
        best = WhiteBox(network, name=f"white box from {network.name}")
        return (
            seen_through(AngleSearch(self, PAIRS), network),
            seen_through(AngleSearch(self, EVERYTHING), best),
        )

    def _wrongly_turned_back(self, right: jax.Array) -> jax.Array:
        """Of features [N, h, w, D], in an order that is random already: the hidden part by others'.

        Each is hidden behind those before it, and turned back by another turn.
        """
        hidden = [jnp.roll(right, shift, axis=0) for shift in range(self.parts)]
        return turns.turned_back(self.turns(len(right))[:, 0], jnp.stack(hidden, axis=1))


@dataclasses.dataclass(frozen=True)
class Quaternion(Rotation):
    """Three parts, turned as imaginary parts of quaternions."""

    name: ClassVar[str] = "quaternion"
    parts: ClassVar[int] = 3
    tries: ClassVar[int] = 150  # axes within 11 degrees of all

    def turn(self, key: jax.Array) -> jax.Array:
        """Returns a random turn, float32 [3, 3]."""
        axis = jax.random.normal(key, (3,))
        return turns.of_axes(axis / jnp.linalg.norm(axis))

    def turns(self, count: int) -> jax.Array:
        """Returns turns around axes that are spread evenly, float32 [count, 3, 3]."""
        return turns.of_axes(turns.spread_axes(count))
