"""Progress bars of work that is told in fractions: of cells, of trainings, of the whole.

    with progress_bar(len(cells), "characterising", "cells") as advance:
        advance(0.25)  # of a cell

Whole pictures or files that are counted one by one have `tqdm` as it is. No JAX here.
"""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress_bar(
    total: float, title: str, unit: str = "", done: float = 0, after: float = 0
) -> Iterator[Callable[[float], None]]:
    """Shows a bar on standard error; gives the function that moves it on.

    Args:
        total: how much there is to do; the bar goes no further than that.
        title: what is being done.
        unit: plural of what is counted; without one, only the percentage is shown.
        done: what an earlier run did.
        after: seconds before it is shown, in which bad input may be refused.
    """
    counted = f" {{n:.1f}}/{{total}} {unit}" if unit else ""
    layout = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}|{counted} [{{elapsed}}<{{remaining}}]"
    with tqdm(total=total, initial=done, desc=title, bar_format=layout, delay=after) as bar:

        def advance(share: float) -> None:
            # Shares of cells add up to a little more than their number by rounding.
            bar.update(min(share, bar.total - bar.n))

        yield advance
