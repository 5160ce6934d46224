"""Equal rows are known whatever stores them; revocations are files that are checked."""

import json

import numpy as np
import pytest

from privynet_jax.deployment.release.equal_rows import (
    Revocation,
    check_comparable,
    digests_of,
    read_revocation,
    row_digests,
)
from privynet_jax.errors import UserError

REVOCATION = Revocation("1d" * 32, "float16", ("2e" * 32,), ("3f" * 32, "40" * 32))


def some_rows(count=600):
    return np.float32(np.random.default_rng(0).exponential(size=(count, 2, 2, 3)))


def test_a_row_has_one_digest_whatever_its_type_and_place():
    rows = some_rows()
    found = row_digests(rows)
    assert len({*found}) == len(rows)
    assert [*digests_of(np.float16(rows))] == found
    assert row_digests(rows[::-1])[::-1] == found
    changed = rows.copy()
    changed[7, 1, 1, 2] *= 1.001  # two units in the last place of float16
    assert [a == b for a, b in zip(row_digests(changed), found, strict=True)].index(False) == 7
    assert row_digests(1e30 * rows[:1]) == row_digests(np.full_like(rows[:1], np.inf))


def test_bytes_are_compared_with_bytes_alone():
    check_comparable(["float16", "float32"])
    check_comparable(["uint8", "uint8"])
    with pytest.raises(UserError, match="rows of float16 and uint8 cannot be compared; give --dt"):
        check_comparable(["uint8", "float16"])


def test_a_revocation_comes_back(tmp_path):
    REVOCATION.write(tmp_path / "r.json")
    assert read_revocation(tmp_path / "r.json") == REVOCATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"rows": []}, "was changed after it was written"),
        (lambda content: content | {"names": ["me.jpg"]}, "was changed after it was written"),
        (lambda content: {}, "of version None of the format"),
    ],
)
def test_what_is_no_revocation_is_one_line(tmp_path, change, message):
    path = tmp_path / "r.json"
    REVOCATION.write(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=rf"^[^\n]*r.json [^\n]*{message}[^\n]*$"):
        read_revocation(path)
    with pytest.raises(UserError, match=r"other.json cannot be read: No such file"):
        read_revocation(tmp_path / "other.json")


@pytest.mark.parametrize("empty", ["rows", "releases"])
def test_nothing_cannot_be_revoked(empty):
    fields = {"plan_id": "1d" * 32, "dtype": "float16", "releases": ("a",), "rows": ("b",)}
    with pytest.raises(UserError, match="nothing is revoked"):
        Revocation(**{**fields, empty: ()})
