"""Bars count fractions, start where an earlier run ended, and never run over."""

from privynet_jax.platform.progress import progress_bar


def test_fractions_add_up_to_no_more_than_all(capsys):
    with progress_bar(3, "characterising", "cells", done=1) as advance:
        advance(0.5)
        advance(1.5)
        advance(0.1)
    lines = capsys.readouterr().err.split("\r")
    assert lines[1].startswith("characterising:  33%|")
    assert "| 1.0/3 cells [" in lines[1]
    assert lines[-1].startswith("characterising: 100%|")
    assert "| 3.0/3 cells [" in lines[-1]


def test_without_a_unit_there_is_a_percentage(capsys):
    with progress_bar(1, "searching") as advance:
        advance(0.25)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("searching:  25%|")
    assert "| [" in last
