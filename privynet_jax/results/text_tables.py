"""Rows of numbers as text: for people who read them in a terminal, and as CSV.

print(aligned([{"attack": "linear", "PSNR dB": 14.21}, {"attack": "residual", "PSNR dB": 20.0}]))
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def aligned(rows: Sequence[Mapping[str, Any]], digits: int = 2) -> str:
    """Returns rows under a header, columns aligned: numbers at the right, words at the left.

    Args:
        rows: at least one; all have the keys of the first, which are the header.
        digits: after the point of every float.
    """
    columns = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        cells = [name, *(_as_text(value, digits) for value in values)]
        width, numeric = max(map(len, cells)), any(isinstance(v, int | float) for v in values)
        columns.append([f"{cell:{'>' if numeric else '<'}{width}}" for cell in cells])
    first, *body = ("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
    return "\n".join([first, "-" * len(first), *body])


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV; at least one, whose keys are the header of all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_text(value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
