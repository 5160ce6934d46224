"""Checksums: equal for equal content, and changed by whatever is changed."""

import hashlib
import json

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import (
    canonical_json,
    read_sealed,
    sealed,
    sha256_of_files,
    sha256_of_json,
    verify_files,
)


def test_canonical_json_by_hand():
    assert canonical_json({"b": (1, 2.5), "a": None}) == b'{"a": null, "b": [1, 2.5]}'
    # Keys sort as the text that JSON makes of them: "10" comes before "9".
    assert canonical_json({9: "x", 10: "y"}) == b'{"10": "y", "9": "x"}'
    assert sha256_of_json({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()


def test_what_is_sealed_is_known_to_be_unchanged(tmp_path):
    path = tmp_path / "sealed.json"
    content = {"shape": (4, 4), "of": {2: "ü"}}
    path.write_text(sealed(content), encoding="utf-8")
    assert read_sealed(path) == ({"shape": [4, 4], "of": {"2": "ü"}}, True)
    changed = json.loads(path.read_text())
    path.write_text(json.dumps({**changed, "shape": [4, 5]}))
    assert read_sealed(path) == ({"shape": [4, 5], "of": {"2": "ü"}}, False)


@pytest.mark.parametrize("content", ["", "{}", "[]", "7", '"sha256"', "[" * 10000])
def test_what_is_not_sealed_is_told_in_one_way(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"\w"):
        read_sealed(tmp_path / "a.json")


def test_files_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "deep" / "b.txt").write_bytes(b"b")
    expected = {"a.txt": hashlib.sha256(b"a").hexdigest()}
    expected["deep/b.txt"] = hashlib.sha256(b"b").hexdigest()
    assert sha256_of_files(tmp_path) == expected
    (tmp_path / "more").touch()
    verify_files(tmp_path, expected, "copy it again")
    (tmp_path / "a.txt").write_bytes(b"c")
    with pytest.raises(UserError, match=r"a\.txt is damaged: expected .*; copy it again"):
        verify_files(tmp_path, expected, "copy it again")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"is incomplete: a\.txt is missing; copy it again"):
        verify_files(tmp_path, expected, "copy it again")
