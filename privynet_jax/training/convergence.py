"""How a training's loss fell, kept in a few numbers, and whether it was still falling at its end.

`training` adds every step's loss to it; `group` reads it when a network is done.

    curve = Curve.empty().extended(loss, schedule.steps)
    falling_percent(np.asarray(curve.sums), schedule.steps)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CURVE_POINTS = 10


class Curve(NamedTuple):
    """How the loss of mini-batches fell: all steps so far, in `CURVE_POINTS` equal stretches.

    Attributes:
        step: int32, steps done.
        sums: float32 [CURVE_POINTS], the losses of each stretch, added up.
    """

    step: jax.Array
    sums: jax.Array

    @classmethod
    def empty(cls) -> "Curve":
        """Returns the curve before the first step."""
        return cls(jnp.int32(0), jnp.zeros(CURVE_POINTS, jnp.float32))

    def extended(self, loss: jax.Array, steps: int) -> "Curve":
        """Returns the curve after one more of so many steps."""
        stretch = self.step * CURVE_POINTS // steps
        return Curve(self.step + 1, self.sums.at[stretch].add(loss))


def falling_percent(sums: np.ndarray, steps: int, error: Callable[[float], float] = float) -> float:
    """Returns by how many percent the error still fell towards the end of a training.

    That is the error behind the mean loss of the last fifth of the steps against that of the fifth
    before. It is hardly ever zero, because the learning rate goes down to zero in that time.

    Args:
        sums: float32 [CURVE_POINTS], of a finished training's `Curve`.
        steps: of that training; fewer than points say nothing, and count as 100 percent.
        error: mean loss -> a number with a zero; see `losses.ImageLoss`.
    """
    if steps < CURVE_POINTS:
        return 100.0
    stretches = np.arange(steps) * CURVE_POINTS // steps
    counts = np.bincount(stretches, minlength=CURVE_POINTS)
    by_fifth = np.float64(sums).reshape(5, -1).sum(axis=1) / counts.reshape(5, -1).sum(axis=1)
    before, last = (error(loss) for loss in by_fifth[-2:])
    return float(100 * (1 - last / before)) if before > 0 else 0.0
