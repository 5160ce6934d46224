"""Rows survive the process, damage is measured anew, and other settings are refused."""

import pytest

from privynet_jax.errors import UserError
from privynet_jax.kept_rows import KeptRows

TITLE = "layers 4, depth 16, gaussian:clip=1,sigma=0.5"


def test_rows_are_there_for_the_next_process(tmp_path):
    kept = KeptRows.opened(tmp_path / "new", {"seed": 0})
    assert kept.read(TITLE) is None
    kept.write(TITLE, {"accuracy": [0.5, 0.25], "epsilon": float("inf")})
    again = KeptRows.opened(tmp_path / "new", {"seed": 0})
    assert again.read(TITLE) == {"accuracy": [0.5, 0.25], "epsilon": float("inf")}
    assert again.read(TITLE + "0") is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"row": "another", "measured": {}}'])
def test_a_damaged_row_counts_as_missing(tmp_path, content):
    kept = KeptRows.opened(tmp_path, {})
    kept.write(TITLE, {"accuracy": [1.0]})
    (path,) = (p for p in (tmp_path / "rows").iterdir() if p.name != "settings.json")
    path.write_text(content)
    assert kept.read(TITLE) is None


def test_rows_of_other_settings_are_refused(tmp_path):
    KeptRows.opened(tmp_path, {"seed": 0})
    with pytest.raises(UserError, match="other settings"):
        KeptRows.opened(tmp_path, {"seed": 1})
