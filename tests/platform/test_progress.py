"""Bars count fractions, start where a run ended, never run over, and are few lines in logs."""

import pytest

from privynet_jax.platform import progress
from privynet_jax.platform.progress import Bar, progress_bar, tell


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(progress, "_is_terminal", lambda file: True)


def test_fractions_add_up_to_no_more_than_all(capsys, terminal):
    with progress_bar(3, "characterising", "cells", done=1) as advance:
        advance(0.5)
        advance(1.5)
        advance(0.1)
    lines = capsys.readouterr().err.split("\r")
    assert lines[1].startswith("characterising:  33%|")
    assert "| 1.0/3 cells [" in lines[1]
    assert lines[-1].startswith("characterising: 100%|")
    assert "| 3.0/3 cells [" in lines[-1]


def test_without_a_unit_there_is_a_percentage(capsys, terminal):
    with progress_bar(1, "searching") as advance:
        advance(0.25)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("searching:  25%|")
    assert "| [" in last


def test_what_remains_is_told_by_the_average_speed(capsys, terminal, monkeypatch):
    """A slow half and a quick one: neither is taken for all that is to come."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress_bar(100, "characterising", "cells") as advance:
        for _ in range(50):
            now[0] += 60
            advance(1)
        for _ in range(20):
            now[0] += 1
            advance(1)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "| 70.0/100 cells [50:20<21:34]" in last  # 3020 s of 70 cells: 1294 s for 30


def test_lines_are_told_above_a_bar(capsys, terminal):
    with progress_bar(1, "searching") as advance:
        advance(0.25)
        tell("found one")
    printed = capsys.readouterr()
    assert printed.out == "found one\n"
    # The bar is wiped out before, and drawn again after.
    states = printed.err.split("\r")
    wiped = max(place for place, state in enumerate(states[:-1]) if not state.strip())
    assert states[wiped + 1].startswith("searching:  25%|")


def test_without_standard_error_there_is_no_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with progress_bar(3, "attacking", "cells", done=1) as advance:
        advance(5)
    assert list(Bar(range(3), "decoding", unit="image", delay=2)) == [0, 1, 2]


def test_a_log_gets_whole_lines_now_and_then(capsys, monkeypatch):
    with progress_bar(1, "attacking") as outer:
        for _ in Bar(range(5000), "decoding", unit="image"):
            outer(1 / 5000)
    text = capsys.readouterr().err
    assert "\r" not in text
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        *("attacking", "decoding", "decoding", "attacking")
    ]
    assert "100%" in text.splitlines()[-1]
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    for _ in Bar(range(50), "decoding", mininterval=0):
        pass
    assert len(capsys.readouterr().err.splitlines()) > 40
    for _ in Bar(range(50), "reading", delay=2):
        pass
    assert not capsys.readouterr().err
