"""Predictions as a CSV file: what was looked at, the likeliest class, a probability per class.

Where there may be several classes, all those of a probability of a half or more.

    write_predictions(Path("rows.csv"), ("row",), (0, 1, 2), [([(0,), (1,)], probabilities)])

No JAX here.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.platform.files import write_shared, written_new
from privynet_jax.results.text_tables import csv_lines

# Names of pictures or rows, and their probabilities float32 [n, num_classes].
Predicted = Iterator[tuple[Sequence[Sequence[object]], np.ndarray]]

THRESHOLD, _BETWEEN = 0.5, "; "


def write_predictions(
    out: Path,
    head: Sequence[str],
    classes: Sequence[object],
    predicted: Predicted,
    *,
    several: bool = False,
) -> str:
    """Writes a new file for the user alone, while predictions come, and says where it is."""
    table = _table(head, classes, predicted, several)
    return written_new(out, functools.partial(write_shared, chunks=table, private=True))


def _table(
    head: Sequence[str], classes: Sequence[object], predicted: Predicted, several: bool
) -> Iterator[bytes]:
    answer = "classes" if several else "class"
    yield _csv([[*head, answer, *(f"probability_{name}" for name in classes)]])
    for names, found in predicted:
        chosen = [[place] for place in found.argmax(axis=1).tolist()]
        if several:
            chosen = [np.flatnonzero(shares >= THRESHOLD).tolist() for shares in found]
        yield _csv(
            [*name, _BETWEEN.join(str(classes[p]) for p in places), *(f"{s:.7g}" for s in shares)]
            for name, places, shares in zip(names, chosen, found.tolist(), strict=True)
        )


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    return csv_lines(rows).encode(errors="surrogateescape")
