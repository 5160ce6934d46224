"""Rows of numbers as text: for people who read them in a terminal, and as CSV.

print(aligned([{"attack": "linear", "PSNR dB": 14.21}, {"attack": "residual", "PSNR dB": 20.0}]))
"""

import csv
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What spreadsheets take for a formula, and may have been made harmless before; numbers are not.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(
    r"[+-]?[\d.,]+(e[+-]?\d+)?( ±[\d.]+)?( \(-?[\d.]+ to -?[\d.]+\))?", re.IGNORECASE
)


def aligned(rows: Sequence[Mapping[str, Any]], digits: int = 2) -> str:
    """Returns rows under a header, columns aligned: numbers at the right, words at the left.

    The ends of a number's interval, columns x_low and x_high, stand in brackets behind x.

    Args:
        rows: at least one; all have the keys of the first, which are the header.
        digits: after the point of every float.
    """
    ends = {name: (f"{name}_low", f"{name}_high") for name in rows[0]}
    ends = {name: both for name, both in ends.items() if rows[0].keys() >= set(both)}
    hidden, columns = set().union(*ends.values()), []
    for name in rows[0]:
        if name in hidden:
            continue
        values = [row[name] for row in rows]
        cells = [name, *(_as_text(value, digits) for value in values)]
        if name in ends:
            low, high = ([_as_text(row[end], digits) for row in rows] for end in ends[name])
            cells[1:] = map(bracketed, cells[1:], low, high)
        width, numeric = max(map(len, cells)), any(isinstance(v, int | float) for v in values)
        columns.append([f"{cell:{'>' if numeric else '<'}{width}}" for cell in cells])
    first, *body = ("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
    return "\n".join([first, "-" * len(first), *body])


def bracketed(value: str, low: str, high: str) -> str:
    """Returns a number with the ends of its interval, where there is one."""
    return value if {low, high} & {"", "nan"} else f"{value} ({low} to {high})"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV; at least one, whose keys are the header of all."""
    head = list(rows[0])
    if any(row.keys() - set(head) for row in rows):
        raise ValueError("a row has columns that the first one lacks")
    return csv_lines([head, *([row.get(name, "") for name in head] for row in rows)])


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Returns CSV that no spreadsheet runs: names of pictures may look like formulas."""
    lines: list[str] = []
    # Of line ends, csv quotes those alone that are in its own.
    writer = csv.writer(types.SimpleNamespace(write=lines.append), lineterminator="\r\n")
    for row in rows:
        writer.writerow([f"'{cell}" if _is_formula(cell) else cell for cell in row])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def restored(cell: str) -> str:
    """Returns what a cell was before it was made harmless."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_formula(cell: Any) -> bool:
    return isinstance(cell, str) and bool(_FORMULA.match(cell)) and not _NUMBER.fullmatch(cell)


def _as_text(value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
