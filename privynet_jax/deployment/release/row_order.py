"""Which picture each row of a release is: a CSV that stays on the device. No JAX here.

Every line has a mark of its own that ties it to the release, so no picture gets the answer of
another release's row. Lines may be in any order.
"""

import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from privynet_jax.errors import UserError
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.text_tables import as_csv, restored

_NO_ORDER = (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error)


def write_order(path: Path, release: str, pictures: Sequence[str]) -> None:
    """Writes the name of each row's picture, for the user alone; `release` is the release's id."""
    rows = [
        {"row": row, "picture": name, "mark": mark_of(release, row, name)}
        for row, name in enumerate(pictures)
    ]
    # Names of files are bytes, which need not be UTF-8.
    write_atomically(path, as_csv(rows).encode(errors="surrogateescape"), private=True)


def read_order(path: Path, release: str, rows: int) -> list[str]:
    """Returns the name of each row's picture; UserError where the file is not of this release."""
    if not has_rows(path, release, rows):
        raise UserError(
            f"--order={path} is no list of the pictures of this release's {rows} rows; give the "
            "--order_out that experiments.extract wrote together with it"
        )
    return _read(path, release)


def check_replaceable(path: Path, release: str) -> None:
    """Raises UserError where something else is there than an order of this release."""
    if not os.path.lexists(path):
        return
    try:
        _read(path, release)
    except _NO_ORDER:
        told = f"{path} exists already, and is not of this release; give another file"
        raise UserError(told) from None


def has_rows(path: Path, release: str, rows: int) -> bool:
    """Whether an order of so many rows of a release is there."""
    try:
        return len(_read(path, release)) == rows
    except _NO_ORDER:
        return False


def mark_of(release: str, row: int, picture: str) -> str:
    """Returns 16 hexadecimal digits that only this row of this release has with this picture."""
    content = f"{release} {row} {picture}".encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()[:16]


def _read(path: Path, release: str) -> list[str]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.DictReader(file, strict=True))
    by_row = {}
    for line in lines:
        row, picture = int(line["row"]), restored(line["picture"])
        if line["mark"] != mark_of(release, row, picture):
            raise ValueError
        by_row[row] = picture
    if not lines or len(lines) != len(by_row):
        raise ValueError
    return [by_row[row] for row in range(len(lines))]
