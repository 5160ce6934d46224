"""Settings that differ are all named, in one line; equal ones pass."""

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform.resuming import check_same_settings


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
