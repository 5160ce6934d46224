"""What all attacks have in common: the knowledge they are given, fitting, and reconstructing.

An attack is fitted on what the attacker owns, for several topologies of one layer at once, and then
rebuilds images of any number of representations. It never meets a true image of what it attacks.

    [fitted] = attack.fit([pairs], [Knowledge(PAIRS)], [jax.random.key(0)])
    estimates = fitted.reconstruct(representations)  # float32 [N, H, W, 3] in [0, 1]
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.partition import hold_out
from privynet_jax.platform.rows.row_views import ChosenChannels, ChosenRows

# What an attacker has, beside the representations under attack. The words stand in all tables.
PAIRS = "pairs"
OTHER_PAIRS = "pairs from another data set"
NETWORK = "network but not channels"
EVERYTHING = "everything"
KNOWLEDGE = (PAIRS, OTHER_PAIRS, NETWORK, EVERYTHING)

# images float32 [N, H, W, 3] in [0, 1] -> representations float32 [N, h, w, channels]. With many
# parameters it is a `Partial` of them: as arguments of programs they compile sooner than in them.
Representing = Callable[[jax.Array], jax.Array]
# Number of layers -> channels, int [D], or None for all -> these of that layer.
Network = Mapping[int, Callable[[np.ndarray | None], Representing]]


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Images that an attacker owns, with their representations.

    Attributes:
        representations: [N, h, w, D], float32 or float16; an array or what reads rows. Of root mean
            square about 1 per channel, or zeros that fill up D. [0, h, w, D] where the attacker has
            images but nobody to represent them.
        images: uint8 [N, H, W, 3].
        copies: rows that there are of each image, one after the other.
    """

    representations: Any
    images: np.ndarray
    copies: int = 1

    def chosen(self, rows: np.ndarray) -> "Pairs":
        """Returns some of the pairs, int [n], read as they are used: whole images, all copies."""
        firsts = rows[:: self.copies]
        whole = (firsts[:, None] + np.arange(self.copies)).ravel()
        if (firsts % self.copies).any() or not np.array_equal(rows, whole):
            raise ValueError(f"Expected rows of all {self.copies} copies of each image.")
        own = self.representations
        if isinstance(own, ChosenChannels):  # keeps telling which channels only fill up
            chosen = ChosenChannels(ChosenRows(own.stored, rows), own.positions, own.shape[-1])
        else:
            chosen = ChosenRows(own, rows)
        return Pairs(chosen, self.images[rows], self.copies)

    def hold_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows to learn from, and those to judge by, int [n] each, ascending.

        Raises:
            UserError: there are fewer than two images, or not as many representations.
        """
        rows = len(self.images)
        count = rows // self.copies
        if count < 2 or len(self.representations) != rows:
            raise UserError(
                f"{len(self.representations) // self.copies} representations and {count} images "
                "are no pairs to train on; allowed are 2 or more of both; give the attacker more"
            )
        return hold_out(count, self.copies)

    def in_training_order(self) -> np.ndarray | None:
        """Returns the rows to learn from, int [n], in the order of steps; None: shuffled epochs."""
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Knowledge:
    """What an attacker knows beside its pairs; recorded with every number that comes from it.

    Attributes:
        name: one of `KNOWLEDGE`.
        local: for `EVERYTHING`: images -> the released, normalised representation [N, h, w, D],
            differentiable.
        network: for `NETWORK`: number of layers -> channels -> images -> these channels of that
            layer after its ReLU, not normalised, [N, h, w, D], of all layers whose maps are as
            large as the release's: it may be of any of them; see `Network`. One object for all
            topologies that have it in common.
        observed: for `NETWORK`: the release under attack, normalised, float [N, h, w, D].
        planted: for `NETWORK`: pictures that the attacker planted in a release of the same channels
            and scales, with what was released of them: one or more. None: it planted none.
        secret: for `EVERYTHING`: a mechanism's own, by which a release is disguised.
        made: for `EVERYTHING`: as `local`, with a mechanism's randomness, another for each image
            that differs; None where there is none.
    """

    name: str = PAIRS
    local: Representing | None = None
    network: Network | None = None
    observed: np.ndarray | None = None
    planted: Pairs | None = None
    secret: Any = None
    made: Representing | None = None

    def __post_init__(self) -> None:
        if self.name not in KNOWLEDGE:
            raise UserError(
                f"knowledge {self.name!r}; allowed are {', '.join(map(repr, KNOWLEDGE))}; give one"
            )


# What fitting chose and found, such as "steps", "learning_rate", "converged" and
# "falling_percent_per_doubling": numbers, truths and words, but for the "guess" of who guesses, and
# for "gain_db", an `extrapolation.Gain`, or None where nothing is known of longer training; closed
# forms do without it.
Report = Mapping[str, Any]
Reconstructing = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FittedAttack:
    """An attack that is ready for the representations of one topology, and what fitting found.

    It reconstructs of float32 [N, h, w, D], normalised, estimates float32 [N, H, W, 3] in [0, 1].

    Attributes:
        reconstruct: those of the least error, which PSNR measures.
        report: what fitting found, of these.
        likest: others of more likeness, which SSIM measures; None where it has the same.
    """

    reconstruct: Reconstructing
    report: Report
    likest: Reconstructing | None = None

    def after(self, prepare: Callable[[np.ndarray], np.ndarray], report: Report) -> "FittedAttack":
        """Returns the same for representations that are prepared first, with another report."""
        nearest, likest = self.reconstruct, self.likest
        return FittedAttack(
            lambda x: nearest(prepare(x)), report, likest and (lambda x: likest(prepare(x)))
        )


def as_partial(local: Representing) -> Partial:
    """Returns what can be an argument of a program, with its parameters, if it has any."""
    return local if isinstance(local, Partial) else Partial(local)


def compiled(local: Representing) -> Representing:
    """Returns the same under `jax.jit`, with its parameters as arguments; programs go with it."""
    return functools.partial(jax.jit(lambda local, images: local(images)), as_partial(local))


def scaled(local: Representing, scales: np.ndarray, width: int | None = None) -> Partial:
    """Returns representations times scales, float [D], filled up with zeros to a width."""
    unused = 0 if width is None else width - len(scales)
    return Partial(_Scaled(unused), as_partial(local), jnp.float32(scales))


@dataclasses.dataclass(frozen=True)
class _Scaled:
    unused: int

    def __call__(self, local: Representing, scales: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.pad(local(images) * scales, ((0, 0), (0, 0), (0, 0), (0, self.unused)))


def diverged(message: str) -> FittedAttack:
    """Returns what fitting leaves where training diverged: it says so when it is used."""

    def refuse(representations: np.ndarray) -> np.ndarray:
        raise DivergedError(message)

    return FittedAttack(refuse, {"converged": False})


def check_pairs(name: str, scenes: Sequence[Pairs], least: int) -> None:
    """Raises UserError where an attack of this name has fewer pairs than it can be fitted on."""
    # Of images: copies tell no more of the pixels that are to be found.
    check_count(name, min(len(pairs.images) // pairs.copies for pairs in scenes), least)


def check_count(name: str, count: int, least: int) -> None:
    """Raises UserError where so many pairs are fewer than an attack of this name needs."""
    if count < least:
        raise UserError(
            f"the attack {name} was given {count} pairs; allowed are {least} or more; give a data "
            "set with more pictures for the attacker's part, auxiliary"
        )


def optimises_images(attack: "Attack") -> bool:
    """Whether an attack optimises each image that it is asked for, which takes its time."""
    return getattr(attack, "optimises_images", False)


class Attack(Protocol):
    """A way to rebuild images: what results call it, and what it needs, one of `KNOWLEDGE`.

    One that optimises each image by itself says so: `optimises_images` is True.
    """

    name: str
    knowledge: str

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Prepares the attack on several topologies of one layer, side by side.

        What is found for one does not depend on which others are fitted beside it; where training
        diverges on one, that one is `diverged`.

        There is one of each per topology: what the attacker owns, with representations of one shape
        but for N, of which it holds out what tuning needs (`Pairs.hold_out`); what else it knows;
        and the key of all that is random.

        Raises:
            UserError: pairs or knowledge are not enough for this attack.
        """
        ...
