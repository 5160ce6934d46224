"""The folder of a comparison: nobody else's tables are replaced, private pictures stay private."""

import stat

import pytest

from experiments.comparing.ground import filled, kept_rows
from privynet_jax.errors import DivergedError, UserError


def test_tables_of_something_else_are_not_replaced(tmp_path):
    (tmp_path / "mechanisms.csv").write_text("mine")
    with pytest.raises(UserError, match=r"has a mechanisms.csv of something else; give another"):
        kept_rows(tmp_path, {}, "mechanisms", "photo_patches")
    kept_rows(tmp_path, {}, "attackers", "photo_patches").write("a row", {"x": 1})
    assert kept_rows(tmp_path, {}, "mechanisms", "photo_patches").read("a row") == {"x": 1}


def test_what_is_made_of_own_pictures_is_the_user_s_alone(tmp_path):
    kept_rows(tmp_path / "private", {}, "mechanisms", "photo_patches", "folder:x").write("a", {})
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    kept_rows(tmp_path / "public", {}, "mechanisms", "photo_patches", "").write("a", {})
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) & 0o055


def test_rows_beside_one_that_diverged_are_kept(tmp_path):
    kept = kept_rows(tmp_path, {}, "mechanisms", "photo_patches")

    def measured(missing):
        return [DivergedError(f"{n} did") if n % 2 else {"x": n} for n in missing]

    with pytest.raises(DivergedError, match=r"^1 did; and 3 did$"):
        filled(kept, {"a": 1, "b": 2, "c": 3, "d": 4}, measured)
    assert [kept.read(title) for title in "abcd"] == [None, {"x": 2}, None, {"x": 4}]
