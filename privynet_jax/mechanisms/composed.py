"""Several mechanisms around one local NN, one after the other.

parse_mechanism("early_exit+gaussian:clip=1,sigma=0.5+quantise:bits=4")
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np

from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.guarantees import DELTA
from privynet_jax.mechanisms.mechanism import Local, Mechanism, Plain


@dataclasses.dataclass(frozen=True)
class Composed(Mechanism):
    """Two or more mechanisms, of which the first is the first to change a picture.

    Raises:
        UserError: they do not go together.
    """

    name: ClassVar[str] = "composed"
    parts: tuple[Mechanism, ...]

    def __post_init__(self) -> None:
        whole = [part for part in self.parts if part.releases_pictures]
        own = [part for part in self.parts if part.trains_local]
        # What others would do to turned features, no cloud NN commutes with.
        turned = [part for part in self.parts if part.secret_is_fresh]
        if whole or turned or len(own) > 1 or len(self.parts) < 2 or Plain() in self.parts:
            raise UserError(
                f"mechanism {self}: what is combined by + is two or more mechanisms around one "
                "local NN, of which one may train it, and none turns features; for example "
                "dropout:rate=0.5+quantise:bits=2"
            )

    @property
    def changes_image(self) -> bool:
        """Whether any does."""
        return any(part.changes_image for part in self.parts)

    @property
    def trains_local(self) -> bool:
        """Whether one does."""
        return any(part.trains_local for part in self.parts)

    @property
    def training_copies(self) -> int:
        """As many as the part needs that needs most."""
        return max(part.training_copies for part in self.parts)

    @property
    def hardness(self) -> float:
        """That of the part whose copies are hardest."""
        return max(part.hardness for part in self.parts)

    @property
    def is_random(self) -> bool:
        """Whether any is."""
        return any(part.is_random for part in self.parts)

    @property
    def not_planned(self) -> str:
        """Why the first is not that may not be."""
        return next((part.not_planned for part in self.parts if part.not_planned), "")

    def check(self, shape: tuple[int, ...]) -> None:
        """Each checks for itself."""
        for part in self.parts:
            part.check(shape)

    def secret(self, key: jax.Array, public: np.ndarray) -> tuple[Any, ...]:
        """A tuple of each one's."""
        return tuple(
            part.secret(jax.random.fold_in(key, place), public)
            for place, part in enumerate(self.parts)
        )

    def local(self, clean: Scenario, key: jax.Array) -> Local | None:
        """That of the part that trains one, if any."""
        training = (part for part in self.parts if part.trains_local)
        return next(training, self.parts[0]).local(clean, key)

    def of_image(self, secret: Any, key: jax.Array, image: jax.Array) -> jax.Array:
        """One after the other."""
        return self._in_turn("of_image", secret, key, image)

    def of_representation(self, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """One after the other."""
        return self._in_turn("of_representation", secret, key, x)

    def expected_image(self, image: jax.Array) -> jax.Array:
        """One after the other: near the mean, as each is."""
        return _chained([part.expected_image for part in self.parts], image)

    def expected(self, x: jax.Array) -> jax.Array:
        """One after the other: near the mean, as each is."""
        return _chained([part.expected for part in self.parts], x)

    def macs(self, shape: tuple[int, ...], topology: Any) -> int:
        """The sum."""
        return sum(part.macs(shape, topology) for part in self.parts)

    def epsilon(self, values: int, delta: float = DELTA) -> float:
        """The least: each one's holds for any input, and whatever is done to what it gives."""
        return min(part.epsilon(values, delta) for part in self.parts)

    def adapted(self, network: InverseNetwork) -> tuple[Attack, ...]:
        """Each one's."""
        return tuple(attack for part in self.parts for attack in part.adapted(network))

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))

    def _in_turn(self, method: str, secret: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        # Whoever knows that no part has a secret gives none.
        secrets = (None,) * len(self.parts) if secret is None else secret
        for place, (part, own) in enumerate(zip(self.parts, secrets, strict=True)):
            x = getattr(part, method)(own, jax.random.fold_in(key, place), x)
        return x


def _chained(functions: list[Callable[[jax.Array], jax.Array]], x: jax.Array) -> jax.Array:
    for function in functions:
        x = function(x)
    return x
