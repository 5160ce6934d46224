"""Means of test pictures' numbers over several cells, with intervals over the pictures' sources.

A work directory keeps a value per test picture of each cell. Draws of one selection are about the
same pictures, so their mean is taken picture by picture first, and two selections are compared
picture by picture; then sources, such as photographs, are resampled. What such an interval leaves
out is how much draws differ from one another.

    pictures = PictureValues.of(store, config)
    pictures.interval(cells, "psnr_db_mean").low
    pictures.difference(cells, others, "accuracy").high
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax import ResultStore, UserError
from privynet_jax.results.accuracies import balanced_mean_of
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.risk_tables import scored
from privynet_jax.results.statistics import Interval, bootstrap, mean_of

# Column of results.csv -> the metric whose mean it is; the other columns are the cloud NN's.
_LOSSES = {"psnr_db_mean": "psnr_db", "ssim_mean": "ssim"}
_BALANCED = "balanced_accuracy"


@dataclasses.dataclass(frozen=True, eq=False)
class PictureValues:
    """The values per test picture that a work directory keeps.

    Attributes:
        store: the work directory.
        mode: of its characterisation, which says which test images were scored.
        labels: of all test images, int [N].
        sources: of all test images, int [N].
        several: whether an image may have several labels; then nothing is known of what is balanced
            over them, picture by picture.
    """

    store: ResultStore
    mode: str
    labels: np.ndarray
    sources: np.ndarray
    several: bool = False
    # Cell -> its arrays of numbers per image, so that a cell is read once.
    _read: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, store: ResultStore, config: Mapping[str, Any]) -> "PictureValues":
        """Returns those of a work directory with its settings; UserError: they are damaged."""
        pictures = store.load_test_pictures()
        several = len(pictures.get("label_names", ())) > 0
        return cls(store, config["mode"], pictures["labels"], pictures["sources"], several)

    def interval(self, cells: Sequence[CellResult], column: str) -> Interval:
        """Returns a column's mean over some cells, and its 95 % interval over sources.

        Columns are `accuracy`, `balanced_accuracy`, `psnr_db_mean` (dB) and `ssim_mean`, in their
        units there; each cell's loss is that of the attacker who is strongest in the column. Only
        pictures count that were scored in all cells: a white box and `public` see few.

        Raises:
            UserError: a cell's arrays are damaged.
        """
        return self._bootstrapped(self._of_cells(cells, column), column)

    def difference(
        self,
        ours: Sequence[CellResult],
        theirs: Sequence[CellResult],
        column: str,
        kept: "PictureValues | None" = None,
    ) -> Interval:
        """Returns a mean over cells less that of others, picture by picture, as `interval` does.

        The others may be `kept` in a work directory of the same test images.
        """
        others = (kept or self)._of_cells(theirs, column)
        return self._bootstrapped(self._of_cells(ours, column) - others, column)

    def _bootstrapped(self, values: np.ndarray, column: str) -> Interval:
        rows = np.flatnonzero(~np.isnan(values))
        statistic = mean_of
        if column == _BALANCED and self.several:
            return Interval(math.nan, math.nan, math.nan)
        if column == _BALANCED:
            statistic = functools.partial(balanced_mean_of, labels=self.labels[rows])
        return bootstrap(values[rows], statistic, self.sources[rows])

    def _of_cells(self, cells: Sequence[CellResult], column: str) -> np.ndarray:
        """float64 [N], means over cells; NaN where a cell has no value."""
        return np.mean([self._of_cell(cell, column) for cell in cells], axis=0)

    def _of_cell(self, cell: CellResult, column: str) -> np.ndarray:
        name = "accuracy"
        if metric := _LOSSES.get(column):
            strongest = max(cell.attacks, key=lambda attack: getattr(attack, metric).mean)
            name = f"{strongest.attacker}_{metric}"
        if cell.name not in self._read:
            arrays = self.store.load_arrays(cell.name)
            self._read[cell.name] = {key: x for key, x in arrays.items() if x.ndim == 1}
        values = self._read[cell.name].get(name, np.zeros(0))
        if not 1 <= len(values) <= len(self.labels):
            raise UserError(
                f"{self.store.workdir}/cells/{cell.name}.npz has no {name} per test image; delete "
                "it and run experiments.characterize again"
            )
        found = np.full(len(self.labels), np.nan)
        found[scored(self.labels, len(values), self.mode)] = values
        return found
