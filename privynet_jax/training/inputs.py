"""The input pipeline: a layer's representations to the devices, as `mapping` takes them.

Parts that fit into the devices' memory are loaded once per layer, and mini-batches are picked
there by their rows. The others are gathered by the host, one batch ahead of the devices. On CPU
that is all of them: the devices' memory is the host's own. `group` asks for batches.

    inputs = LayerInputs(layer, parts, width=32, execution=execution)
    resident = inputs.resident("target", "labels")
    batch = inputs.batch("target", "labels", positions_per_cell, rows_per_cell)
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import Execution, nbytes
from privynet_jax.training.batches import CellConstants, Resident

# Training reads its parts many times, evaluation once per network.
_BY_USE = ("target", "auxiliary", "test", "validation")
_Item = TypeVar("_Item")


class LayerInputs:
    """One layer's representations and their targets, for groups of one execution."""

    def __init__(
        self, layer: LayerFeatures, parts: Parts, width: int, execution: Execution
    ) -> None:
        """Chooses what stays on the devices; it is loaded when it is asked for.

        Args:
            layer: representations of all parts.
            parts: images and labels.
            width: channels to which every representation is padded.
            execution: the devices, and how much of their memory may be used.
        """
        self.parts, self.width, self.execution = parts, width, execution
        self._layer = layer
        self._fitting = _fitting_parts(layer, parts, execution.resident_bytes)
        self._loaded: dict[tuple[str, str], Any] = {}

    @property
    def representation_shape(self) -> tuple[int, int, int]:
        """Height, width and channels (the padded ones) of a cell's representations."""
        return (*self._layer.parts["test"].shape[1:3], self.width)

    @property
    def fetched_shape(self) -> tuple[int, int, int]:
        """The shape in which a cell first meets them: with all stored channels where resident."""
        stored = self._layer.parts["test"].shape[1:]
        return stored if self._fitting else self.representation_shape

    def constants(self, positions: Sequence[np.ndarray], extras: Sequence[Any]) -> CellConstants:
        """Returns the constants of a group's cells, on their devices.

        Args:
            positions: per cell int [depth], where its channels lie among the stored ones.
            extras: per cell the pytree that its tasks receive besides; of one shape in all cells.
        """
        cells = [
            CellConstants(
                extra,
                np.pad(mine, (0, self.width - len(mine))).astype(np.int32),
                np.arange(self.width) < len(mine),
            )
            for mine, extra in zip(positions, extras, strict=True)
        ]
        return self.execution.place(self.execution.stack(cells))

    def resident(self, part: str, targets: str) -> Resident | None:
        """Returns a part as it lies on the devices, or None where the host gathers.

        Args:
            part: which.
            targets: "labels" or "images".
        """
        if part not in self._fitting:
            return None
        wanted = {
            "representations": self._layer.parts[part],
            targets: getattr(getattr(self.parts, part), targets),
        }
        for name, stored in wanted.items():
            if (part, name) not in self._loaded:
                self._loaded[part, name] = self.execution.load(stored)
        return Resident(*(self._loaded[part, name] for name in wanted))

    def batch(
        self,
        part: str,
        targets: str,
        positions: Sequence[np.ndarray],
        rows: Sequence[np.ndarray],
    ) -> Any:
        """Returns what `batches.fetch` takes: [devices, cells per device, *rows[i].shape, ...].

        Args:
            part: which part.
            targets: "labels" or "images".
            positions: per cell, as for `constants`.
            rows: per cell int [..., B].
        """
        if part in self._fitting:
            return self.execution.stack([mine.astype(np.int32) for mine in rows])
        answers = getattr(getattr(self.parts, part), targets)
        places = (len(self.execution.devices), self.execution.cells_per_device)
        one = (*rows[0].shape, *self.representation_shape)
        # Gathered in place: on CPU, every copy of a batch costs as much as some of its arithmetic.
        stacked = np.empty((self.execution.group_size, *one), self._layer.parts[part].dtype)
        for cell, (channels, mine) in enumerate(zip(positions, rows, strict=True)):
            out = stacked[cell].reshape(-1, *self.representation_shape)
            self._layer.gather(part, mine.ravel(), channels, self.width, out)
        stacked[len(rows) :] = stacked[len(rows) - 1]
        return (
            stacked.reshape(*places, *one),
            self.execution.stack([answers[mine] for mine in rows]),
        )


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yields the same items, each made by a thread while the one before it is used."""
    nothing = object()
    with ThreadPoolExecutor(1, "prefetch") as pool:
        pending = pool.submit(next, items, nothing)
        while (item := pending.result()) is not nothing:
            pending = pool.submit(next, items, nothing)
            yield item


def _fitting_parts(layer: LayerFeatures, parts: Parts, budget: int) -> set[str]:
    fitting = set()
    for part in _BY_USE:
        # Images count even where only labels will be asked for: they are small beside the rest.
        size = nbytes(layer.parts[part]) + nbytes(getattr(parts, part).images)
        if size <= budget:
            fitting.add(part)
            budget -= size
    return fitting
