"""Predictions as a CSV file: what was looked at, the likeliest class, a probability per class.

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


def write_predictions(
    out: Path, head: Sequence[str], classes: Sequence[object], predicted: Predicted
) -> str:
    """Writes a new file for the user alone, while predictions come, and says where it is."""
    table = _table(head, classes, predicted)
    return written_new(out, functools.partial(write_shared, chunks=table, private=True))


def _table(head: Sequence[str], classes: Sequence[object], predicted: Predicted) -> Iterator[bytes]:
    yield _csv([[*head, "class", *(f"probability_{name}" for name in classes)]])
    for names, found in predicted:
        likeliest = found.argmax(axis=1).tolist()
        yield _csv(
            [*name, classes[best], *(f"{share:.7g}" for share in shares)]
            for name, best, shares in zip(names, likeliest, found.tolist(), strict=True)
        )


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    return csv_lines(rows).encode(errors="surrogateescape")
