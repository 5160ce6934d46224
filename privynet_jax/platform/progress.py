"""Progress on standard error: a bar in a terminal, a line now and then in a log.

    for picture in Bar(pictures, "decoding", unit="picture", delay=2):
        ...
    with progress_bar(len(cells), "characterising", "cells") as advance:
        advance(0.25)  # of a cell
        tell("the first cell is there")

Where there is no tqdm, as on devices, there are no bars. No JAX here.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

try:
    from tqdm import tqdm
except ModuleNotFoundError:

    class tqdm:  # noqa: N801
        """Counts, and shows nothing."""

        external_write_mode = contextlib.nullcontext

        def __init__(
            self, counted: Iterable[Any] = (), *_: Any, initial: float = 0, **settings: Any
        ) -> None:
            self._counted, self.n, self.total = counted, initial, settings.get("total")

        def __iter__(self) -> Iterator[Any]:
            yield from self._counted

        def __enter__(self) -> "tqdm":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float = 1) -> None:
            """Counts on."""
            self.n += count


# Between two lines of a log.
_SECONDS = 30.0


class Bar(tqdm):
    """tqdm's bar, of what is counted one by one; the only one that is used here."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        if sys.stderr is None:  # as of programs without a console
            settings["disable"] = True
        elif not _is_terminal(sys.stderr):
            seldom = {"mininterval": _SECONDS, "maxinterval": _SECONDS}
            settings = {"file": _Log(sys.stderr), **seldom, **settings}
        super().__init__(*arguments, **settings)


@contextlib.contextmanager
def progress_bar(
    total: float, title: str, unit: str = "", done: float = 0, after: float = 0
) -> Iterator[Callable[[float], None]]:
    """Shows work that is told in fractions; gives the function that moves it on.

    Args:
        total: how much there is to do; the bar goes no further than that.
        title: what is being done.
        unit: plural of what is counted; without one, only the percentage is shown.
        done: what an earlier run did.
        after: seconds before it is shown, in which bad input may be refused.
    """
    counted = f" {{n:.1f}}/{{total}} {unit}" if unit else ""
    layout = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}|{counted} [{{elapsed}}<{{remaining}}]"
    shown = {"desc": title, "bar_format": layout, "delay": after}
    # What remains is told by the average speed: that of the last moments is one kind of work's.
    with Bar(total=total, initial=done, smoothing=0, **shown) as bar:

        def advance(share: float) -> None:
            # Shares of cells add up to a little more than their number by rounding.
            bar.update(min(share, bar.total - bar.n))

        yield advance


def tell(text: str) -> None:
    """Prints to standard output, above the bars there are."""
    with tqdm.external_write_mode():
        print(text, flush=True)


def _is_terminal(file: TextIO) -> bool:
    """Whether a line can be written over, as in notebooks, too."""
    return file.isatty() or type(file).__module__.startswith("ipykernel")


class _Log:
    """A file in which each state of a bar is a line, where tqdm goes back to the line's start."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._last = file, ""

    def write(self, text: str) -> None:
        state = text.replace("\x1b[A", "").strip()
        if state and state != self._last:
            self._last = state
            self._file.write(f"{state}\n")

    def flush(self) -> None:
        self._file.flush()
