"""Sealed JSON files: read as they were written, and refused in one line where they say too much."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sealed
from privynet_jax.platform.documents import (
    Count,
    Hex64,
    Positive,
    checked,
    read_document,
    write_document,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    """A record in a record, with a check of its own."""

    limit: float

    def __post_init__(self):
        if self.limit < 0:
            raise UserError("a limit below 0")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A file's content."""

    id: Hex64
    shape: tuple[Count, Count, Count]
    peaks: tuple[Positive, ...] | None
    inner: Inner
    settings: Mapping[str, Any]


WRITTEN = Manifest("0f" * 32, (16, 16, 8), (1.0, 2.5), Inner(3.0), {"steps": [1, None]})


def read(path):
    return read_document(path, Manifest, 3, "copy it again", what="manifest")


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_document(path, WRITTEN, 3, private=True)
    assert read(path) == WRITTEN
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"shape": [2**32, 2**32, 1]}, r"is no manifest: Expected `int` <= 1048575 - at .*shape"),
        ({"shape": [1, 2]}, "length 3"),
        ({"shape": [1, 2, True]}, "got `bool`"),
        ({"peaks": [0.0]}, "> 0.0"),
        ({"peaks": [float("inf")]}, "is no manifest; copy it again"),
        ({"id": "0f" * 32 + "\n"}, "regex"),
        ({"inner": {"limit": -1}}, "a limit below 0 - at `\\$.inner`"),
        ({"settings": {"rate": float("nan")}}, "is no manifest; copy it again"),
        ({"more": 1}, "more is unknown or missing; copy it again"),
        ({"inner": {"limit": 3.0, "price": 3}}, "price is unknown or missing; copy it again"),
    ],
)
def test_what_no_writer_wrote_is_refused_though_its_checksum_is_right(tmp_path, changed, told):
    path = tmp_path / "a.json"
    path.write_text(sealed({"version": 3, **dataclasses.asdict(WRITTEN), **changed}))
    with pytest.raises(UserError, match=told):
        read(path)


def test_numbers_that_become_infinite_are_refused(tmp_path):
    path = tmp_path / "a.json"
    content = {"version": 3, **dataclasses.asdict(WRITTEN), "settings": {"rate": float("inf")}}
    path.write_text(sealed(content).replace("Infinity", "1e999"))
    with pytest.raises(UserError, match="is no manifest; copy it again"):
        read(path)
    with pytest.raises(UserError, match="no inner: it holds NaN or infinity; copy"):
        checked({"limit": float("nan")}, Inner, "no inner", "copy")


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "7", "null", "[]", "[" * 993 + "]" * 993, "[" * 10**5, "\xff"]
)
def test_what_is_no_document_is_told_in_one_way(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"(is no manifest|version None)"):
        read(path)


def test_changes_and_other_versions_are_told(tmp_path):
    path = tmp_path / "a.json"
    write_document(path, WRITTEN, 3)
    path.write_text(path.read_text().replace("2.5", "2.25"))
    with pytest.raises(UserError, match="was changed after it was written; copy it again"):
        read(path)
    for version in (2, "3"):
        write_document(path, WRITTEN, version)
        told = f"is of version {version!r} of the format, expected 3; read it with"
        with pytest.raises(UserError, match=told):
            read(path)
