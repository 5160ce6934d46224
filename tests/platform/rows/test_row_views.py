"""Rows that are chosen or joined are those of the arrays themselves."""

import numpy as np
import pytest

from privynet_jax.platform.rows import row_views
from privynet_jax.platform.rows.row_views import ChosenRows, JoinedRows, remembered

STORED = np.arange(24, dtype=np.float16).reshape(6, 2, 2)
ASKED = (slice(None), slice(1, 3), slice(0), np.array([2, 0, 2]), np.array([[1, 2], [0, 0]]), -1)


def check_equal(view, expected):
    assert (view.shape, view.dtype, len(view)) == (expected.shape, expected.dtype, len(expected))
    for which in ASKED:
        np.testing.assert_array_equal(view[which], expected[which])
    np.testing.assert_array_equal(np.asarray(view), expected)
    np.testing.assert_array_equal(list(view), expected)


def test_chosen_rows_in_any_order():
    rows = np.array([5, 1, 1, 0])
    check_equal(ChosenRows(STORED, rows), STORED[rows])
    # Out of chosen ones again.
    check_equal(ChosenRows(ChosenRows(STORED, rows), np.array([2, 0, 3])), STORED[[1, 5, 0]])


def test_remembered_rows_are_made_once(monkeypatch):
    view = ChosenRows(STORED, np.arange(6))
    asked = []
    monkeypatch.setattr(view, "_read", lambda numbers: asked.extend(numbers) or STORED[numbers])
    kept = remembered(view)
    np.testing.assert_array_equal(kept[np.array([4, 1, 4])], STORED[[4, 1, 4]])
    assert asked == [1, 4]
    check_equal(kept, STORED)
    assert asked == [1, 4, 0, 2, 3, 5]
    monkeypatch.setattr(row_views, "_MOST_REMEMBERED", 6 * 4 * 2 - 1)
    assert remembered(view) is view


def test_joined_rows():
    check_equal(JoinedRows(STORED[:2], STORED[:0], STORED[3:]), STORED[[0, 1, 3, 4, 5]])


def test_chosen_channels_of_chosen_rows():
    rows, positions = np.array([5, 1, 1, 0]), np.array([1])
    view = ChosenRows(JoinedRows(STORED[:3], STORED[3:]), rows)
    [(where, values)] = view.select(np.array([0, 3]), positions)
    np.testing.assert_array_equal(values, STORED[[5, 0]][..., positions])
    assert where == slice(None)


def test_rows_there_are_not():
    with pytest.raises(IndexError):
        JoinedRows(STORED, STORED)[np.array([12])]
    with pytest.raises(ValueError, match="is a copy"):
        np.asarray(ChosenRows(STORED, np.arange(2)), copy=False)
