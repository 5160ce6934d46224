"""Everything measured about one cell, image by image, before it is summarised.

`characterisation` makes these, whatever the mode; `cell_results` keeps what a row says of them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from privynet_jax.results.cells import Cell


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured about one cell, per image, before it is summarised.

    Attributes:
        cell: which.
        accuracy: part name ("validation", "test") -> float32 [N], 1 where the cloud NN was right.
        attacks: attacker -> part name -> metric ("psnr_db", "ssim") -> float32 [N].
        examples: attacker -> uint8 [K, H, W, 3], its estimates of the K test images asked for.
        falling_percent: trained network -> by how much its loss still fell at the end of training
            (`convergence.falling_percent`); nothing for what was not trained for this cell alone.
        seconds: wall-clock time of the group, divided by its cells.
    """

    cell: Cell
    accuracy: Mapping[str, np.ndarray]
    attacks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    examples: Mapping[str, np.ndarray]
    seconds: float
    falling_percent: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def attackers_falling_percent(self) -> dict[str, float]:
        """Returns `falling_percent` with the closed form, which has nothing to train: 0."""
        return {"linear": 0.0, **self.falling_percent}
