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
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    Representing,
)
from privynet_jax.attacks.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    chunk_size,
    chunks_of,
)
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.guessing import Guess, guess_channels
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.platform.row_views import ChosenChannels, RowView
from privynet_jax.training.batches import stream_of

SUBSTITUTE = "substitute"
ALIGNED, RANDOM_GUESS, MIXED = GUESSES = ("aligned", "random", "mixed")
# Of its own images, an attacker takes statistics over so many: more changed nothing.
_MOST_STATISTICS = 1024
_AT_ONCE = 64
# Folded into the key for guesses, apart from what attacks derive from it.
_GUESS = 2**31 - 1


class LayerRows(RowView):
    """All channels of a layer on images uint8 [N, H, W, 3]: it runs when rows are read."""

    def __init__(self, layer: Representing, images: np.ndarray) -> None:
        """Keeps both."""
        self._run, self._images = jax.jit(layer), images
        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
        _, *shape = jax.eval_shape(self._run, one).shape
        super().__init__((len(images), *shape), np.float32)
        self._size = chunk_size(_AT_ONCE, shape)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), *self.shape[1:]), np.float32)
        for start in range(0, len(numbers), self._size):
            batch = as_float(self._images[numbers[start : start + self._size]])
            # One shape for all batches, so that the layer is compiled once.
            filled = np.pad(batch, ((0, self._size - len(batch)), *[(0, 0)] * 3))
            rows[start : start + self._size] = np.asarray(self._run(filled))[: len(batch)]
        return rows


class PublicLayer:
    """A layer of the network on images that the attacker owns."""

    def __init__(self, rows: Any) -> None:
        """Keeps all channels [N, h, w, C], of any scale: `LayerRows`, or cached features."""
        self.count, *self.shape = rows.shape
        self._rows = rows
        self._statistics: dict[int, ChannelStatistics] = {}

    def statistics(self, images_per_chunk: int) -> ChannelStatistics:
        """Returns the statistics of all channels, taken once per size of chunks."""
        if images_per_chunk not in self._statistics:
            most = max(_MOST_STATISTICS, 4 * images_per_chunk) // images_per_chunk
            chunks = chunks_of(self._rows, images_per_chunk)
            self._statistics[images_per_chunk] = channel_statistics(itertools.islice(chunks, most))
        return self._statistics[images_per_chunk]

    def represent(self, channels: Sequence[int]) -> np.ndarray:
        """Returns some channels of all images, float32 [N, h, w, D], each of root mean square 1."""
        chosen = np.asarray(channels)
        out = np.empty((self.count, *self.shape[:2], len(chosen)), np.float32)
        for rows in self._blocks():
            out[rows] = self._rows[rows][..., chosen]
        return np.divide(out, _rms(out), out=out, casting="unsafe")

    def represent_mixed(self, depth: int, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns channels drawn anew for each image, float32 [N, h, w, depth]."""
        rms = self.statistics(chunk_size(self.count, self.shape)).rms
        out = np.empty((self.count, *self.shape[:2], depth), np.float32)
        for rows in self._blocks():
            for place, values in enumerate(self._rows[rows], rows.start):
                drawn = draw()
                out[place] = values[..., drawn] / np.maximum(rms[drawn], 1e-6)
        return out

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self.count, _AT_ONCE):
            yield slice(start, min(start + _AT_ONCE, self.count))


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
        width, depth = observed.shape[-1], _released(observed)
        observed = observed[..., :depth]
        channels, stream = np.arange(public.shape[-1]), stream_of(jax.random.fold_in(key, _GUESS))

        def draw() -> np.ndarray:
            return stream.permutation(stream.choice(channels, depth, replace=False))

        guess = None if self.guessing == MIXED else self._guess(observed, public, draw)
        made = public.represent(guess.channels) if guess else public.represent_mixed(depth, draw)
        # The release's own scale, which it was normalised to on images that nobody else knows.
        made *= _rms(observed)
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
            return Guess(tuple(map(int, guessed)), chance, guessed[:, None])
        # At least four chunks, or nothing is known of how statistics vary from one to the next.
        size = chunk_size(min(len(observed), public.count // 4), public.shape)
        released = channel_statistics(chunks_of(observed, size))
        return guess_channels(released, public.statistics(size))


def _released(x: np.ndarray) -> int:
    """How many channels are released: those behind them, always zero, only fill up the width."""
    alive = np.flatnonzero(np.any(x, axis=(0, 1, 2)))
    return int(alive[-1]) + 1 if len(alive) else x.shape[-1]


def _rms(x: np.ndarray) -> np.ndarray:
    """Root mean square, float64 [C], never zero."""
    squares = np.einsum("nhwc,nhwc->c", x, x, dtype=np.float64)
    return np.maximum(np.sqrt(squares / np.prod(x.shape[:3])), 1e-6)
