"""Traces: read, generated, and how much goes on in them by when."""

import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.scheduling.traces import KINDS, Amount, Trace, generated, read_trace


def test_amounts_by_hand():
    # Two a second for a second, nothing for two, then one a second for ever.
    amount = Amount(np.array([0.0, 1.0, 3.0]), np.array([2.0, 0.0, 1.0]))
    assert amount.at(np.array([0.0, 0.5, 1.0, 2.5, 3.0, 13.0])).tolist() == [0, 1, 2, 2, 2, 12]
    assert amount.until(np.array([0.0, 1.0, 2.0, 2.5, 12.0])).tolist() == [0, 0.5, 1, 3.5, 13]


def test_what_never_comes():
    amount = Amount(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert amount.until(np.array([1.0, 1.5])).tolist() == [1.0, np.inf]


def test_a_file(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("time_s,mbit_per_s,slowdown\n100,6,1\n101.5,0,2\n103,3.5,1\n")
    trace = read_trace(path)
    assert trace.name == "train.csv"
    assert not trace.is_generated
    assert trace.seconds.tolist() == [0, 1.5, 3]
    assert trace.mbit_per_s.tolist() == [6, 0, 3.5]
    assert trace.slowdown.tolist() == [1, 2, 1]
    path.write_text("mbit_per_s,time_s,place\n6,0,home\n5,1,work\n")
    assert read_trace(path).slowdown.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,slowdown\n0,1\n1,1\n", "has no column mbit_per_s"),
        ("", "has no column"),
        ("time_s,mbit_per_s\n0,fast\n1,2\n", "rows that are no numbers"),
        ("time_s,mbit_per_s\n0\n1,2\n", "rows that are no numbers"),
        ("time_s,mbit_per_s\n", "less than two rows"),
        ("time_s,mbit_per_s\n0,1\n", "less than two rows"),
        ("time_s,mbit_per_s\n0,nan\n1,2\n", "finite numbers"),
        ("time_s,mbit_per_s\n0,1\n0,2\n", "do not rise"),
        ("time_s,mbit_per_s\n0,1\n1,-2\n", "out of range"),
        ("time_s,mbit_per_s,slowdown\n0,1,1\n1,2,0.5\n", "out of range"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_trace(path)
    assert "bad.csv" in str(refused.value)
    assert "give a CSV with columns time_s" in str(refused.value)


def test_pictures_are_no_traces(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a trace"):
        read_trace(path)
    with pytest.raises(UserError, match="cannot be read as a trace"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.parametrize("kind", KINDS)
def test_generated_ones_come_from_their_seed(kind):
    trace, again = (generated(kind, 300, 6.0, seed=3) for _ in range(2))
    assert trace.is_generated
    assert trace.seconds.tolist() == list(range(301))
    assert np.array_equal(trace.mbit_per_s, again.mbit_per_s)
    assert np.array_equal(trace.slowdown, again.slowdown)
    other = generated(kind, 300, 6.0, seed=4)
    changes = kind != "steady"
    assert (trace.mbit_per_s.tolist() != other.mbit_per_s.tolist()) == changes
    # Twice the bandwidth, and nothing else.
    assert np.allclose(generated(kind, 300, 12.0, seed=3).mbit_per_s, 2 * trace.mbit_per_s)


def test_kinds_do_what_they_say():
    steady, markov, commute, busy = (generated(kind, 50_000, 6.0, seed=0) for kind in KINDS)
    assert set(steady.mbit_per_s) == {6.0}
    # Of 25 seconds 5 are bad, on average; 2,000 such rounds are within 5 points.
    assert sorted(set(markov.mbit_per_s)) == pytest.approx([0.6, 6.0])
    assert (markov.mbit_per_s < 1).mean() == pytest.approx(0.2, abs=0.05)
    # Tunnels of 5 s begin once in 60 s: 1 - (59 / 60)^5 of the time is spent in some.
    assert (commute.mbit_per_s == 0).mean() == pytest.approx(1 - (59 / 60) ** 5, abs=0.02)
    open_air = commute.mbit_per_s[commute.mbit_per_s > 0]
    assert np.median(open_air) == pytest.approx(6.0, rel=0.2)
    assert (busy.slowdown > 1).mean() == pytest.approx(1 / 3, abs=0.01)
    assert np.median(busy.slowdown[busy.slowdown > 1]) == pytest.approx(4, rel=0.05)


def test_refusals():
    with pytest.raises(UserError, match="no trace is called moon; allowed are steady, markov"):
        generated("moon", 10, 6.0, 0)
    with pytest.raises(UserError, match="--trace_seconds is 0; allowed are 1 to"):
        generated("steady", 0, 6.0, 0)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match=f"--mbit_per_s is {wrong}; allowed"):
            generated("steady", 10, wrong, 0)
    with pytest.raises(UserError, match="do not rise from 0"):
        Trace("late", np.array([1.0, 2.0]), np.ones(2), np.ones(2))
