"""Tables of several labels for each picture: what they say, and what is refused of them."""

import csv

import numpy as np
import pytest
from support.handmade_package import fill

from privynet_jax.errors import UserError
from privynet_jax.images.folders import list_pictures, read_folder
from privynet_jax.images.label_tables import TABLE, as_one_class, read_label_table

ROWS = {
    "a/0.png": (1, 0, 1),
    "a/1.png": (1, 0, 0),
    "b/0.png": (0, 0, 0),
    "b/1.png": (1, 1, 0),
    "b/2.png": (1, 0, 0),
}


def write_table(folder, rows=ROWS, names=("cat", "Übel", "snow"), mark=""):
    lines = [",".join(["picture", *names]), *(",".join([n, *map(str, v)]) for n, v in rows.items())]
    (folder / TABLE).write_text(mark + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path, {"a": 2, "b": 3})
    for path in sorted(tmp_path.glob("*/*")):
        path.rename(path.with_name(f"{int(path.stem.rpartition('_')[2] or 0) % 9}.png"))
    return tmp_path


def pictures(folder):
    return sorted(folder.glob("*/*.png"))


def test_a_table_is_read_in_the_order_of_the_pictures(folder):
    names = [path.relative_to(folder).as_posix() for path in pictures(folder)]
    rows = dict(zip(names, ROWS.values(), strict=True))
    # As spreadsheets write UTF-8.
    write_table(folder, dict(reversed(rows.items())), mark="\ufeff")
    found, labels = read_label_table(folder, pictures(folder))
    assert found == ("cat", "Übel", "snow")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [*rows.values()])
    dataset = read_folder(folder, in_parts=False)
    assert dataset.test is None
    assert dataset.class_names == ("cat", "Übel", "snow", "none of these")
    np.testing.assert_array_equal(dataset.train.several, labels)
    # The rarest label counts: of two as rare, the first.
    assert dataset.train.labels.tolist() == [2, 0, 3, 1, 0]
    some = dataset.train.take(np.array([3, 0]))
    np.testing.assert_array_equal(some.several, labels[[3, 0]])


def test_a_label_of_every_picture_leaves_no_other_class():
    labels, names = as_one_class(np.uint8([[1, 0], [1, 1]]), ("a", "b"))
    assert (labels.tolist(), names) == ([0, 1], ("a", "b"))


def test_classes_of_too_few_pictures_are_none():
    """What everything is, what one is, and what nothing is; one picture without any."""
    rows = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    labels, names = as_one_class(np.uint8(rows), ("animal", "cat", "fox", "dog"), least=2)
    assert names == ("animal", "cat")
    assert labels.tolist() == [1, 1, 0, 0, 0, 0]
    labels, names = as_one_class(np.uint8(rows), ("animal", "cat", "fox", "dog"))
    assert names == ("animal", "cat", "dog", "none of these")
    assert labels.tolist() == [1, 1, 2, 0, 0, 3]


def damaged(folder, change):
    names = [path.relative_to(folder).as_posix() for path in pictures(folder)]
    write_table(folder, dict(zip(names, ROWS.values(), strict=True)))
    path = folder / TABLE
    path.write_bytes(change(path.read_bytes()))


def test_names_that_need_quotes_and_tables_elsewhere(folder):
    odd = folder / "a" / 'x,\u0085 "y".png'
    pictures(folder)[0].rename(odd)
    names = [path.relative_to(folder).as_posix() for path in pictures(folder)]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("picture", "cat"), *((name, 1) for name in names)])
    assert read_label_table(folder, pictures(folder))[1].tolist() == [[1]] * 5
    assert list_pictures(folder) == pictures(folder)  # the table is none of them


BAD = {
    "empty": (lambda text: b"", "labels.csv is empty"),
    "no table": (lambda text: b"\xff\xfe\x00", "is no table of UTF-8 text"),
    "no head": (lambda text: text.partition(b"\n")[2], "expected is picture, and then the names"),
    "no names": (lambda text: text.replace(b",cat,", b",,"), "expected is picture, and then"),
    "a name twice": (lambda text: text.replace(b",snow", b",cat"), "expected is picture, and"),
    "a value that is none": (
        lambda text: text.replace(b",1,0,1", b",1,0,2"),
        "line 2 of .* 0 or 1",
    ),
    "a value less": (lambda text: text.replace(b",1,0,1", b",1,0"), "line 2 of .* and 3 values"),
    "a line twice": (lambda text: text + text.splitlines()[2] + b"\n", "twice; leave one line out"),
    "a line less": (
        lambda text: b"\n".join(text.splitlines()[:-1]),
        "has no line for 1 pictures, such as b/",
    ),
    "no pictures' lines": (lambda text: text.splitlines()[0], "has no line for 5 pictures"),
    "none of these": (lambda text: text.replace(b",snow", b",none of these"), "and none of them"),
    "a name in two spellings": (
        lambda text: text.replace(b",cat", ",U\u0308bel".encode()),
        "each once and none of them",
    ),
    "a blank line before": (
        lambda text: text.replace(b"\n", b"\n\n", 1).replace(b",1,0,1", b",1,0,2"),
        "line 3 of .* 0 or 1",
    ),
    "a line more": (lambda text: text + b"../c.png,0,0,0\n", r"not there, such as \.\./c.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_table_is_one_line(folder, case):
    change, message = BAD[case]
    damaged(folder, change)
    with pytest.raises(UserError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_folder(folder, in_parts=False)
