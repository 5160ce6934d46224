"""How fast the parts of a characterisation run, always beside the machine's matrix-product rate.

Machines are shared and noisy, so a `Clock` puts a float32 matrix product before and after every
sample, and a share compares what was measured within the same second.
"""

import math
import operator
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.platform.devices import Execution, map_members

GIGA = 1e9
# Does something a number of times and returns when all of it is done.
Work = Callable[[int], None]


class Clock:
    """Times work between matrix products."""

    def __init__(self, execution: Execution, size: int, repeats: int, seconds: float) -> None:
        """There are so many `repeats` per work, each of so many seconds or more."""
        self.rates: list[float] = []
        self._repeats, self._seconds = repeats, seconds
        # Mapped like a network, so that it keeps the same devices busy in the same way.
        product = map_members(_product, execution)
        matrices = execution.place(execution.stack([np.ones((size, size), np.float32)]))

        def multiply(count: int) -> None:
            jax.block_until_ready([product(matrices, matrices, None) for _ in range(count)])

        self._multiply = multiply
        self._product_flops = 2 * size**3 * execution.group_size
        self._product_count = self._count_for(multiply)

    def product_rate(self) -> float:
        """Returns one sample of the matrix-product rate of all devices together, in GFLOP/s."""
        seconds = _timed(self._multiply, self._product_count)
        self.rates.append(self._product_flops * self._product_count / seconds / GIGA)
        return self.rates[-1]

    def measure(self, works: Mapping[str, tuple[float, Work]]) -> dict[str, dict[str, float]]:
        """Times works in turn, so that each meets the same moods of the machine.

        Works are (operations of doing it once, work) by name; of each come the median `seconds` of
        doing it once, `seconds_best`, `gflops`, `gflops_best`, `share`, the median of its rate
        divided by the mean of the matrix-product rates just before and after, and `of_first`, the
        median of its seconds divided by those of the first work in the same turn.
        """
        counts = {name: self._count_for(work) for name, (_, work) in works.items()}
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for _ in range(self._repeats):
            before = self.product_rate()
            for name, (_, work) in works.items():
                seconds = _timed(work, counts[name]) / counts[name]
                after = self.product_rate()
                samples[name].append((seconds, (before + after) / 2))
                before = after
        first = [seconds for seconds, _ in next(iter(samples.values()))]
        return {name: _summary(flops, samples[name], first) for name, (flops, _) in works.items()}

    def _count_for(self, work: Work) -> int:
        """How often work is done within one sample; the first call compiles and does not count."""
        work(1)
        return max(1, math.ceil(self._seconds / _timed(work, 1)))


def repeated(function: Callable[[], Any], count: int) -> None:
    """Calls a function so many times: `functools.partial(repeated, function)` is a `Work`."""
    for _ in range(count):
        function()


def counted_by_xla(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns XLA's count of a function's operations.

    It leaves out taps on padding, a fifth to a third on the small grids here, and counts each
    element-wise operation as one.
    """
    with jax.default_device("cpu"):  # plugins of accelerators need not count
        return float(jax.jit(function).lower(*arguments).cost_analysis()["flops"])


def _product(one: jax.Array, other: jax.Array, _: None) -> jax.Array:
    # float32 as the networks multiply it
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)


def _timed(work: Work, count: int) -> float:
    begun = time.perf_counter()
    work(count)
    return time.perf_counter() - begun


def _summary(
    flops: float, samples: list[tuple[float, float]], first: list[float]
) -> dict[str, float]:
    seconds = [seconds for seconds, _ in samples]
    return {
        "seconds": statistics.median(seconds),
        "seconds_best": min(seconds),
        "gflops": flops / statistics.median(seconds) / GIGA,
        "gflops_best": flops / min(seconds) / GIGA,
        "share": statistics.median(flops / one / GIGA / rate for one, rate in samples),
        "of_first": statistics.median(map(operator.truediv, seconds, first)),
    }
