"""Which picture each row of a release is: a CSV that stays on the device. No JAX here."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.text_tables import as_csv, restored

_NO_ORDER = (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error)


def write_order(path: Path, pictures: Sequence[str]) -> None:
    """Writes the name of each row's picture, for the user alone."""
    table = as_csv([{"row": row, "picture": name} for row, name in enumerate(pictures)])
    # Names of files are bytes, which need not be UTF-8.
    write_atomically(path, table.encode(errors="surrogateescape"), private=True)


def read_order(path: Path, rows: int) -> list[str]:
    """Returns the name of each row's picture; UserError where the file is not of so many rows."""
    try:
        pictures = _read(path)
        if len(pictures) != rows:
            raise ValueError
    except _NO_ORDER:
        remedy = "give the --order_out that experiments.extract wrote together with this release"
        told = f"--order={path} is no list of the pictures of {rows} rows; {remedy}"
        raise UserError(told) from None
    return pictures


def check_replaceable(path: Path, pictures: Sequence[str]) -> None:
    """Raises UserError where something else is there than an order of pictures like this one.

    Pictures that were skipped are missing from it.
    """
    if not os.path.lexists(path):
        return
    try:
        left = iter(pictures)
        is_ours = all(name in left for name in _read(path))
    except _NO_ORDER:
        is_ours = False
    if not is_ours:
        raise UserError(f"{path} exists already, and is not of this release; give another file")


def has_rows(path: Path, rows: int) -> bool:
    """Whether an order of so many rows is there."""
    try:
        return len(_read(path)) == rows
    except _NO_ORDER:
        return False


def _read(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.DictReader(file, strict=True))
    by_row = {int(line["row"]): restored(line["picture"]) for line in lines}
    if not lines or len(lines) != len(by_row) or any(len(line) > 2 for line in lines):
        raise ValueError
    return [by_row[row] for row in range(len(lines))]
