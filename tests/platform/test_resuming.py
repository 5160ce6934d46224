"""Settings that differ are all named; rows survive the process, and damage is measured anew."""

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform.resuming import KeptRows, check_same_settings


def test_equal_settings_pass():
    check_same_settings("it was made", {"a": [1, 2], "b": None}, {"a": [1, 2]}, "or else")


def test_every_difference_is_named():
    with pytest.raises(UserError) as refused:
        check_same_settings(
            "it was made", {"b": 1, "a": "x", "same": 2}, {"same": 2, "c": []}, "or"
        )
    assert str(refused.value) == (
        "it was made with other settings: a was 'x' and is now None; b was 1 and is now None; "
        "c was None and is now []; give the old settings, or"
    )


TITLE = "layers 4, depth 16, gaussian:clip=1,sigma=0.5"


def test_rows_are_there_for_the_next_process(tmp_path):
    kept = KeptRows(tmp_path / "new", {"seed": 0})
    assert kept.read(TITLE) is None
    kept.write(TITLE, {"accuracy": [0.5, 0.25], "epsilon": float("inf")})
    again = KeptRows(tmp_path / "new", {"seed": 0})
    assert again.read(TITLE) == {"accuracy": [0.5, 0.25], "epsilon": float("inf")}
    assert again.read(TITLE + "0") is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"row": "another", "measured": {}}'])
def test_a_damaged_row_counts_as_missing(tmp_path, content):
    kept = KeptRows(tmp_path, {})
    kept.write(TITLE, {"accuracy": [1.0]})
    (path,) = (p for p in (tmp_path / "rows").iterdir() if p.name != "settings.json")
    path.write_text(content)
    assert kept.read(TITLE) is None


def test_rows_of_other_settings_are_refused(tmp_path):
    KeptRows(tmp_path, {"seed": 0, "draws": 2}).write(TITLE, {})
    with pytest.raises(UserError, match="other settings: seed was 0 and is now 1; give"):
        KeptRows(tmp_path, {"seed": 1, "draws": 2})


def test_settings_bind_from_the_first_row_on(tmp_path):
    # A command that fails before, for a misspelt data set say, is repeated with other settings.
    KeptRows(tmp_path / "out", {"data": "photo_patchez"})
    assert not list(tmp_path.iterdir())
    KeptRows(tmp_path / "out", {"data": "photo_patches"}).write(TITLE, {})


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"7"])
def test_damaged_settings_are_named(tmp_path, content):
    KeptRows(tmp_path, {"seed": 0}).write(TITLE, {})
    (tmp_path / "rows" / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.json is damaged; delete the folder"):
        KeptRows(tmp_path, {"seed": 0})
