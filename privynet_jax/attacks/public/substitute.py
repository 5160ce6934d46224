"""The substitute attack: pairs of the attacker's own making, in the place of pairs it never got.

Whoever knows the network and the layer can represent images of its own, and fit any attack on
those pairs, if only it knew which channels the release holds. It guesses them: by statistics
(`guessing`), or at random, which is what a naive attacker would do. Nobody is asked anything (after
He et al. 2019, doi:10.1145/3359789.3359824, whose query-free attack trains its stand-in instead).

    attack = Substitute(inner=LinearInversion())
    [fitted] = attack.fit([scene.pairs(NETWORK)], [scene.knowledge(NETWORK)], [key])
    fitted.report["confidence"]

The share of the guess that is right is not in the report, because no attacker knows that.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from privynet_jax.attacks.base import (
    NETWORK,
    PAIRS,
    Attack,
    FittedAttack,
    Knowledge,
    Pairs,
    Report,
)
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.public.channel_statistics import (
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.attacks.public.guessing import Guess, guess_channels
from privynet_jax.attacks.public.public_layer import (
    LayerRows,
    PublicLayer,
    released_channels,
    rms_of,
)
from privynet_jax.errors import UserError
from privynet_jax.platform.row_views import ChosenChannels
from privynet_jax.training.batches import stream_of

SUBSTITUTE = "substitute"
ALIGNED, RANDOM_GUESS, MIXED = GUESSES = ("aligned", "random", "mixed")
# Folded into the key for guesses, apart from what attacks derive from it.
_GUESS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Substitute:
    """Fits another attack on pairs made with guessed channels.

    Its report is the inner attack's, with the "guess" (None where each image had another one), and
    "confidence", the mean over channels, in [0, 1].

    Attributes:
        inner: the attack.
        guessing: "aligned", by statistics; "random", one random guess; "mixed", another random
            guess for each image, which learns what holds whatever the channels are.
        public: the layer on the attacker's images, where it is at hand; else it is computed.
        name: what results call it.
    """

    inner: Attack = LinearInversion()  # noqa: RUF009 - frozen
    guessing: str = ALIGNED
    public: PublicLayer | None = None
    name: str = SUBSTITUTE
    knowledge: str = NETWORK

    def __post_init__(self) -> None:
        if self.guessing not in GUESSES:
            raise UserError(
                f"guessing is {self.guessing!r}; allowed are {', '.join(GUESSES)}; give one"
            )

    def fit(
        self, scenes: Sequence[Pairs], knowledge: Sequence[Knowledge], keys: Sequence[jax.Array]
    ) -> list[FittedAttack]:
        """Guesses, represents its own images, and fits; see `base.Attack.fit`."""
        made, found = zip(*map(self._made, scenes, knowledge, keys), strict=True)
        # With the keys themselves, the inner attack differs from the same attack on real pairs,
        # fitted with those, by the pairs alone: their comparison tells what the guess costs.
        fitted = self.inner.fit(made, [Knowledge(PAIRS)] * len(made), keys)
        return [
            # What longer training would gain is of pairs that it made itself.
            FittedAttack(own.reconstruct, {**own.report, **more, "gain_db": None})
            for own, more in zip(fitted, found, strict=True)
        ]

    def _made(self, pairs: Pairs, knowledge: Knowledge, key: jax.Array) -> tuple[Pairs, Report]:
        """Returns pairs of the attacker's own making, and what is told of the guess behind them."""
        if knowledge.layer is None or knowledge.observed is None:
            raise UserError(
                f"the attack {self.name} was given the knowledge {knowledge.name!r}; it needs the "
                "layer and representations without images; give 'network but not channels'"
            )
        public = self.public or PublicLayer(LayerRows(knowledge.layer, pairs.images))
        if public.count != len(pairs.images):
            raise UserError(
                f"{public.count} public representations for {len(pairs.images)} images; "
                "give as many of one as of the other"
            )
        # Read once: everything is compared with it.
        observed = knowledge.observed[:]
        width, depth = observed.shape[-1], released_channels(observed)
        observed = observed[..., :depth]
        channels, stream = np.arange(public.shape[-1]), stream_of(jax.random.fold_in(key, _GUESS))

        def draw() -> np.ndarray:
            return stream.permutation(stream.choice(channels, depth, replace=False))

        guess = None if self.guessing == MIXED else self._guess(observed, public, draw)
        made = public.represent(guess.channels) if guess else public.represent_mixed(depth, draw)
        # The release's own scale, which it was normalised to on images that nobody else knows.
        made *= rms_of(observed)
        filled = ChosenChannels(made, np.arange(depth), width)
        confidence = float(np.mean(guess.confidence)) if guess else 0.0
        told = {"guess": guess, "confidence": confidence}
        return Pairs(filled, pairs.images, pairs.copies), told

    def _guess(
        self, observed: np.ndarray, public: PublicLayer, draw: Callable[[], np.ndarray]
    ) -> Guess:
        if self.guessing == RANDOM_GUESS:
            guessed = draw()
            chance = np.full(len(guessed), 1 / public.shape[-1])
            return Guess(tuple(map(int, guessed)), chance, guessed[:, None], np.ones(len(guessed)))
        # At least four chunks, or nothing is known of how statistics vary from one to the next.
        size = chunk_size(min(len(observed), public.count // 4), public.shape)
        released = channel_statistics(chunks_of(observed, size))
        return guess_channels(released, public.statistics(size))
