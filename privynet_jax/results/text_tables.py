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
    header = list(rows[0])
    body = [[_as_text(row[name], digits) for name in header] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    right = [any(isinstance(row[name], int | float) for row in rows) for name in header]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    first = line(header)
    return "\n".join([first, "-" * len(first), *map(line, body)])


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
