"""Rows as text."""

from privynet_jax.results.text_tables import aligned


def test_columns_are_aligned():
    rows = [
        {"attack": "linear", "PSNR dB": 9.5, "steps": 1000, "done": True},
        {"attack": "u", "PSNR dB": 12.346, "steps": 5, "done": False},
    ]
    assert aligned(rows).splitlines() == [
        "attack  PSNR dB  steps  done",
        "----------------------------",
        "linear     9.50   1000   yes",
        "u         12.35      5    no",
    ]
    assert aligned(rows, digits=0).splitlines()[3] == "u            12      5    no"
