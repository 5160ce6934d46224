"""Pictures with several labels each: a table that says which, beside them.

    picture,cat,dog,snow
    a.png,1,0,1
    more/b.png,0,0,0

`folders` reads `labels.csv` at the top of a folder in place of one subfolder per class.
"""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError

TABLE = "labels.csv"
NONE = "none of these"  # what a picture without any label counts as, where one class is wanted
_FIRST = "picture"
_VALUES = {"0": 0, "1": 1}
_MOST_BYTES = 2**28


def read_label_table(folder: Path, paths: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns names of labels, and which each picture has, uint8 [N, labels] of 0 and 1.

    Args:
        folder: whose table it is.
        paths: of its pictures, each of which the table must name, once.

    Raises:
        UserError: it is no such table, names other pictures, or leaves some out.
    """
    path = folder / TABLE
    (_, head), *rows = _rows(path)
    names = tuple(map(plain_name, head[1:]))
    if head[:1] != [_FIRST] or not names or {"", NONE} & {*names} or len({*names}) < len(names):
        raise UserError(
            f"{path} begins with {','.join(head)[:80]!r}; expected is {_FIRST}, and then the names "
            f"of labels, each once and none of them {NONE!r}, as in picture,cat,dog; where "
            "subfolders are classes, move it away"
        )
    found: dict[str, list[int]] = {}
    for number, (name, *values) in rows:
        name = plain_name(name)
        if len(values) != len(names) or not {*values} <= _VALUES.keys():
            raise UserError(
                f"line {number} of {path} is not a picture and {len(names)} values, 0 or 1 each"
            )
        if name in found:
            raise UserError(f"{path} names {name} twice; leave one line out")
        found[name] = [_VALUES[value] for value in values]
    pictures = [plain_name(picture.relative_to(folder).as_posix()) for picture in paths]
    if missing := [name for name in pictures if name not in found]:
        raise UserError(
            f"{path} has no line for {len(missing)} pictures, such as {missing[0]}; add what is "
            "missing, or move the pictures away"
        )
    if unknown := found.keys() - {*pictures}:
        raise UserError(
            f"{path} has lines for {len(unknown)} pictures that are not there, such as "
            f"{min(unknown)}; leave them out"
        )
    return names, np.array([found[name] for name in pictures], np.uint8)


def as_one_class(
    labels: np.ndarray, names: Sequence[str], least: int = 1
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns one class for each row of labels uint8 [N, L], int32 [N], and the classes' names.

    It is the rarest label that a picture has, of those that then have `least` pictures; of pictures
    that have none, `NONE`, or where these are fewer, what is commonest.
    """
    left = np.ones(len(names), bool)
    while True:
        order = np.argsort(np.where(left, labels.sum(axis=0), len(labels) + 1), kind="stable")
        own = (labels * left)[:, order]
        classes = np.where(own.any(axis=1), order[own.argmax(axis=1)], len(names))
        counts = np.bincount(classes, minlength=len(names) + 1)
        poor = left & (counts[:-1] < least)
        if not poor.any():
            break
        left[np.flatnonzero(poor)[counts[:-1][poor].argmin()]] = False
    if 0 < counts[-1] < least and left.any():
        classes[classes == len(names)] = counts[:-1].argmax()
    kept = np.unique(classes)
    told = [*names, NONE]
    return np.searchsorted(kept, classes).astype(np.int32), tuple(told[place] for place in kept)


def plain_name(name: str) -> str:
    """Returns a name in Unicode's normal form C: systems write one name in several ways."""
    return unicodedata.normalize("NFC", name)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Each row with the number of its line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError
        text = io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")
        reader = csv.reader(text, strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except (ValueError, csv.Error):
        raise UserError(f"{path} is no table of UTF-8 text with commas; save it as CSV") from None
    if not rows:
        raise UserError(f"{path} is empty; give it a line for each picture")
    return rows
