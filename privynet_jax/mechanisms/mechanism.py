"""What all mechanisms have in common: what a device does before it releases, and what that costs.

A mechanism is a frozen dataclass of its parameters. Around the local NN it has two pure functions
of one picture, `of_image` before and `of_representation` after it; one that `releases_pictures` has
no local NN, and the cloud learns from what it makes of whole pictures. `releases` applies them.

    mechanism = parse_mechanism("gaussian:clip=1,sigma=0.5")
    mechanism.of_representation(None, key, x)  # float32 [h, w, D], as x
    mechanism.epsilon(values=16 * 16 * 16)  # of one picture's release, at delta 1e-5

Everything random comes from two keys. One is of the release: what all of its pictures have in
common, a disguise's matrices or cipher, is its `secret`. The other is of the picture's row as well:
a release can be continued, does not depend on batches, and holds one draw per picture. Who knows
the keys knows the randomness.

A prediction comes back as the cloud gives it. Where the device has to finish it, it keeps something
of each query until then (`kept`), and the mechanism brings a network of both sides (`cloud_nn`).

An attacker of class `pairs` has pairs under the very secret, `public` knows mechanism and
parameters but no secret, and `leak` has the secret, too. `adapted` attackers use what they have.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, Attack
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.bounds import Noise
from privynet_jax.mechanisms.guarantees import DELTA

# float32 [N, H, W, 3] -> normalised representations of a local NN, float32 [N, h, w, D]
Local = Callable[[jax.Array], jax.Array]
# What released pictures are divided by, for networks: about their root mean square.
PICTURE_UNIT = 0.5


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """What the device does to one picture and to its representation.

    Attributes:
        name: the word for it in flags and tables.
        example: of its word and parameters, where its defaults are none to show.
        changes_image: whether `of_image` does anything; else cached representations serve.
        trains_local: whether `local` is another network than that of cached representations.
        releases_pictures: whether there is no local NN.
        training_copies: rows that the cloud learns from of each picture. With more than one it owns
            its training pictures: only queries are private.
        first_is_clean: whether the first of several such rows is what is released on average.
        hardness: of what the cloud learns from (`training.tasks.Task`).
        secret_is_fresh: whether the secret is made anew for each query, so that no attacker has it.
        is_random: whether equal pictures are released in other ways each time.
        not_planned: why no plan, and so no package, has it; empty where they may (`on_device`).
    """

    name: ClassVar[str] = ""
    example: ClassVar[str] = ""
    changes_image: ClassVar[bool] = False
    trains_local: ClassVar[bool] = False
    releases_pictures: ClassVar[bool] = False
    training_copies: ClassVar[int] = 1
    first_is_clean: ClassVar[bool] = True
    hardness: ClassVar[float] = 0.0
    secret_is_fresh: ClassVar[bool] = False
    is_random: ClassVar[bool] = False
    not_planned: ClassVar[str] = "whole pictures are released, and no local NN is there to plan"

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError where it cannot be used on pictures of this shape, (H, W, 3)."""

    def secret(self, key: jax.Array, public: np.ndarray) -> Any:
        """Returns what pictures of one release have in common.

        Public pictures, uint8 [P, H, W, 3], are of their shape.
        """
        return None

    def prepared(self, secret: Any, local: Local | None, own: np.ndarray) -> Any:
        """Returns the secret with what the local NN makes of the device's own pictures, if needed.

        These are uint8 [V, H, W, 3], and no attacker has them.
        """
        return secret

    def local(self, clean: Scenario, key: jax.Array) -> Local | None:
        """Returns the local NN, of the scenario without it; None where nobody has its weights."""
        if self.releases_pictures:
            return _same
        return None if clean.weights is None else clean.knowledge(EVERYTHING).local

    def of_image(self, secret: Any, key: jax.Array, image: jax.Array) -> jax.Array:
        """float32 [H, W, 3] in [0, 1] -> the same shape; from a key of this picture alone."""
        return image

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """Normalised representation float32 [h, w, D] -> [h, w, depth(D)], from its own key."""
        return x

    def depth(self, depth: int) -> int:
        """Returns how many channels are released of a representation of so many."""
        return depth

    def kept(self, key: jax.Array) -> jax.Array:
        """Returns what the device keeps until the answer comes: float32 [K], of the same key."""
        return jnp.zeros(0)

    def cloud_nn(self, num_answers: int, image_size: int) -> nn.Module | None:
        """Returns its own cloud NN, whose answer the device has to finish; None: the usual one.

        It takes float32 [N, h, w, depth + K], with what is kept as constant channels at the end,
        of which the cloud itself sees nothing: so one network is trained for both sides.
        """
        return None

    def expected_image(self, image: jax.Array) -> jax.Array:
        """Returns what `of_image` makes on average, or near it, differentiable; for white boxes."""
        return image

    def expected(self, x: jax.Array) -> jax.Array:
        """Returns the same of `of_representation`."""
        return x

    def mean_of(self, several: np.ndarray) -> np.ndarray:
        """Returns what an attacker makes of several releases of pictures, float32 [R, N, ...]."""
        return several.mean(axis=0)

    def undone(self, secret: Any, released: jax.Array) -> jax.Array:
        """Returns the picture that `of_image` was given, but for noise; of `releases_pictures`."""
        raise NotImplementedError(f"{self} undoes nothing")

    @property
    def protects(self) -> str:
        """Whose pictures are released under it, in words."""
        return "queries" if self.training_copies > 1 else "all"

    def macs(self, shape: tuple[int, ...], topology: Any) -> int:
        """Returns its multiply-accumulates for a picture of this shape, beside the local NN's.

        The local NN is a topology's; what a mechanism prunes of it is negative.
        """
        return 0

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """Returns what one release of `values` numbers guarantees (`guarantees`), or infinity."""
        return math.inf

    @property
    def added_noise(self) -> Noise | None:
        """What is added to each value of `expected` representations, and nothing after it."""
        return None

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """Returns attackers that know of it; where they train, the inverse network is trained."""
        return ()

    def __str__(self) -> str:
        """The form that `words.parse_mechanism` reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = ",".join(f"{name}={_told(value)}" for name, value in fields.items())
        return f"{self.name}:{given}" if given else self.name

    def _check(self, field: str, allowed: str, is_allowed: bool) -> None:
        if not is_allowed:
            raise UserError(
                f"mechanism {self.name} has {field}={getattr(self, field)}; allowed: {allowed}; "
                f"for example {self.example or type(self)()}"
            )


@dataclasses.dataclass(frozen=True)
class Plain(Mechanism):
    """Nothing beyond the split itself: PrivyNet's own way."""

    name: ClassVar[str] = "none"
    not_planned: ClassVar[str] = ""


def _same(images: jax.Array) -> jax.Array:
    return images


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"
