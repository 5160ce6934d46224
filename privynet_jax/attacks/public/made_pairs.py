"""Pairs without end: views of an attacker's own pictures, run through the layer that it guessed.

They are made as training reads them, in blocks that all topologies of a layer share. Each pair is
met twice while its block is at hand, and never again: running the network costs half as much as a
step of training, or at deep layers almost twice as much.

    maker = PairMaker(layer, images, union, rms, examples=32 * 2000)
    pairs = maker.pairs(channels, width, key)  # as `base.Pairs`, for any trained attack
"""

import collections
import dataclasses
import threading
from collections.abc import Sequence

import jax
import numpy as np

from privynet_jax.attacks.base import Pairs, Representing, check_count
from privynet_jax.attacks.public.picture_views import PictureViews
from privynet_jax.attacks.public.public_layer import LayerRows
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.images.partition import hold_out
from privynet_jax.platform.devices import at_once, nbytes
from privynet_jax.platform.rows.row_views import ChosenChannels, JoinedRows, RowView
from privynet_jax.training.batches import stream_of

# How often each pair is met.
_USES = 2
# Rows of a block, and bytes that it may have; so many blocks are kept: what is trained on, what is
# read ahead, and what is judged by.
_BLOCK, _BLOCK_BYTES, _KEPT = 256, 2**26, 4


def own_pictures(
    name: str, scenes: Sequence[Pairs], budget: Budget, least: int
) -> list[np.ndarray]:
    """Returns the pictures that an attacker makes pairs of, uint8 [N, H, W, 3], of each scene.

    UserError, which calls the attacker so: there are too few, or it is to train for seconds.
    """
    if not budget.steps:
        raise UserError(
            f"the attack {name} makes its pairs before it trains, and was given seconds; "
            "give a number of steps"
        )
    pictures = [own.images[:: own.copies] for own in scenes]  # copies differ in noise alone
    check_count(name, min(map(len, pictures)), least)
    return pictures


class KeptBlocks(RowView):
    """Rows that are read in whole blocks, of which the last few are kept."""

    def __init__(self, stored: RowView, block: int) -> None:
        """Takes the rows, and how many make a block."""
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._block = stored, block
        self._blocks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()  # training reads ahead in a thread of its own

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        blocks, places = np.divmod(numbers, self._block)
        with self._lock:
            for block in np.unique(blocks):
                rows[blocks == block] = self._kept(int(block))[places[blocks == block]]
        return rows

    def _kept(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            start = block * self._block
            self._blocks[block] = self._stored[start : start + self._block]
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(block)
        return self._blocks[block]


@dataclasses.dataclass(frozen=True, eq=False)
class MadePairs(Pairs):
    """Pairs of which the first are the attacker's pictures themselves, and the last held out.

    Attributes:
        pictures: how many come first.
        judged: how many come last.
        order: int [n], rows in between and before, in the order in which they are learnt from.
    """

    pictures: int = 0
    judged: int = 0
    order: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))

    def hold_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures themselves, and those held out."""
        rows = np.arange(len(self.images))
        return rows[: self.pictures], rows[-self.judged :]

    def in_training_order(self) -> np.ndarray:
        """Returns the rows of all steps."""
        return self.order


class PairMaker:
    """Makes pairs of one layer, for several topologies."""

    def __init__(
        self,
        layer: Representing,
        images: np.ndarray,
        channels: np.ndarray,
        rms: np.ndarray,
        examples: int,
    ) -> None:
        """Prepares for so many examples of training, more than one of which may be the same pair.

        Of images uint8 [N, H, W, 3], two or more, some are held out. The layer is images -> the
        channels of all topologies, int [C], ascending; each is made over its root mean square, of
        which there is one for every channel that the layer has. Blocks are as large as memory
        allows for all of these, so that no order of pairs depends on other topologies' channels.
        """
        learning, judged = hold_out(len(images))
        distinct = -(-examples // _USES)
        views = PictureViews(images[learning], max(1, -(-distinct // len(learning))))
        shown = JoinedRows(views, images[judged])
        made = LayerRows(layer, shown, rms[channels])
        row_bytes = nbytes(made) // len(made) // len(channels) * len(rms)
        block = at_once(_BLOCK, row_bytes, _BLOCK_BYTES)
        self._channels = channels
        self._pictures, self._judged = len(learning), len(judged)
        self._distinct, self._block = min(distinct, len(views)), block
        self._images, self._made = KeptBlocks(shown, block), KeptBlocks(made, block)

    def pairs(self, channels: Sequence[int], width: int, key: jax.Array) -> MadePairs:
        """Returns those of one topology, whose channels are filled up with zeros to a width.

        The key decides their order within a block.
        """
        positions = np.searchsorted(self._channels, channels)
        return MadePairs(
            ChosenChannels(self._made, positions, width),
            self._images,
            pictures=self._pictures,
            judged=self._judged,
            order=self._order(stream_of(key)),
        )

    def _order(self, stream: np.random.Generator) -> np.ndarray:
        rows = np.arange(self._distinct)
        blocks = [rows[start : start + self._block] for start in range(0, len(rows), self._block)]
        return np.concatenate([stream.permutation(own) for own in blocks for _ in range(_USES)])
