"""How bandwidth and load change over time: read from a CSV file, or generated and said so.

    trace = generated("commute", seconds=600, mbit_per_s=6.0, seed=0)
    trace = read_trace(Path("tram.csv"))  # time_s,mbit_per_s,slowdown

Both hold still from one row to the next. Slowdown is how many times as long the device takes as
when nothing else runs on it.
"""

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError

_COLUMNS = ("time_s", "mbit_per_s", "slowdown")
_FORM = "give a CSV with columns time_s (rising), mbit_per_s (0 and more) and, if it changes, "
_FORM += "slowdown (1 and more)"
_MOST_ROWS = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Conditions over time; the last row's hold on.

    Attributes:
        name: a kind or a file's name.
        seconds: when each row begins, float64 [N], rising from 0; the last one ends the trace.
        mbit_per_s: bandwidth of the uplink, float64 [N], 0 where there is none.
        slowdown: of the device, float64 [N].
        is_generated: not measured anywhere.
    """

    name: str
    seconds: np.ndarray
    mbit_per_s: np.ndarray
    slowdown: np.ndarray
    is_generated: bool = False

    def __post_init__(self) -> None:
        rows = (self.seconds, self.mbit_per_s, self.slowdown)
        if len(self.seconds) < 2 or not all(np.isfinite(values).all() for values in rows):
            raise UserError(f"trace {self.name} has less than two rows of finite numbers; {_FORM}")
        if self.seconds[0] or (np.diff(self.seconds) <= 0).any():
            raise UserError(f"trace {self.name} has times that do not rise from 0; {_FORM}")
        if (self.mbit_per_s < 0).any() or (self.slowdown < 1).any():
            raise UserError(f"trace {self.name} has values out of range; {_FORM}")


class Amount:
    """What goes on at a rate that holds still between times: how much is done by when."""

    def __init__(self, seconds: np.ndarray, rates: np.ndarray) -> None:
        """Keeps rates float64 [N] from each of the times [N] on."""
        self._seconds, self._rates = seconds, rates
        self._done = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(seconds))])

    def at(self, when: np.ndarray) -> np.ndarray:
        """Returns how much is done by then, from time 0 on."""
        row = np.searchsorted(self._seconds, when, side="right") - 1
        return self._done[row] + self._rates[row] * (when - self._seconds[row])

    def until(self, done: np.ndarray) -> np.ndarray:
        """Returns when so much is done for the first time; infinite where it never is."""
        row = np.maximum(np.searchsorted(self._done, done, side="left") - 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            missing = done - self._done[row]
            return np.where(
                missing > 0, self._seconds[row] + missing / self._rates[row], self._seconds[row]
            )


def read_trace(path: Path) -> Trace:
    """Returns the trace of a CSV file, whose times begin at its first row.

    Raises:
        UserError: it is no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, lines = reader.fieldnames, list(itertools.islice(reader, _MOST_ROWS + 1))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} cannot be read as a trace; {_FORM}") from None
    if missing := {*_COLUMNS[:2]} - {*(names or ())}:
        raise UserError(f"{path} has no column {min(missing)}; {_FORM}")
    if len(lines) > _MOST_ROWS:
        raise UserError(f"{path} has more than {_MOST_ROWS} rows; give a part of it")
    try:
        rows = [[float(line.get(name, 1)) for name in _COLUMNS] for line in lines]
    except (TypeError, ValueError):
        raise UserError(f"{path} has rows that are no numbers; {_FORM}") from None
    seconds, mbit_per_s, slowdown = np.array(rows, float).reshape(-1, 3).T
    return Trace(path.name, seconds - seconds[:1], mbit_per_s, slowdown)


def generated(kind: str, seconds: int, mbit_per_s: float, seed: int) -> Trace:
    """Returns a generated trace, one row a second; the same for the same arguments.

    Args:
        kind: one of `KINDS`.
        seconds: its length.
        mbit_per_s: bandwidth as it usually is.
        seed: of what is drawn.

    Raises:
        UserError: no such kind, or a length or bandwidth out of range.
    """
    if kind not in KINDS:
        raise UserError(f"no trace is called {kind}; allowed are {', '.join(KINDS)} and CSV files")
    if not 1 <= seconds <= _MOST_ROWS:
        raise UserError(f"--trace_seconds is {seconds}; allowed are 1 to {_MOST_ROWS}")
    if not 0 < mbit_per_s < math.inf:
        raise UserError(f"--mbit_per_s is {mbit_per_s}; allowed are positive numbers")
    stream = np.random.default_rng([seed, list(KINDS).index(kind)])
    share, slowdown = KINDS[kind](seconds + 1, stream)
    return Trace(kind, np.arange(seconds + 1.0), mbit_per_s * share, slowdown, is_generated=True)


_Drawn = tuple[np.ndarray, np.ndarray]


def _steady(count: int, stream: np.random.Generator) -> _Drawn:
    """Nothing changes."""
    return np.ones(count), np.ones(count)


def _markov(count: int, stream: np.random.Generator) -> _Drawn:
    """Gilbert (1960) and Elliott (1963): good for 20 s on average, then a tenth for 5 s."""
    leaves, draws = {True: 1 / 20, False: 1 / 5}, stream.random(count)
    good = np.ones(count, bool)
    for i in range(1, count):
        good[i] = good[i - 1] ^ (draws[i] < leaves[bool(good[i - 1])])
    return np.where(good, 1.0, 0.1), np.ones(count)


def _commute(count: int, stream: np.random.Generator) -> _Drawn:
    """Logarithms walk, drawn back to the usual; once in 60 s on average a tunnel of 5 s."""
    steps, tunnels = stream.normal(0, 0.2, count), stream.random(count) < 1 / 60
    logs = np.zeros(count)
    for i in range(1, count):
        logs[i] = 0.95 * logs[i - 1] + steps[i]
    covered = np.convolve(tunnels, np.ones(5))[:count] > 0
    return np.where(covered, 0.0, np.exp(logs)), np.ones(count)


def _busy(count: int, stream: np.random.Generator) -> _Drawn:
    """Every 60 s others use the device for 20 s, when it takes 4 times as long; +-20 % noise."""
    others = (np.arange(count) + stream.integers(60)) % 60 < 20
    noise = np.exp(stream.normal(0, 0.2, (2, count)))
    return noise[0], np.where(others, np.maximum(1, 4 * noise[1]), 1.0)


KINDS: Mapping[str, Callable[[int, np.random.Generator], _Drawn]] = {
    "steady": _steady,
    "markov": _markov,
    "commute": _commute,
    "busy": _busy,
}
