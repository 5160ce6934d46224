"""Latency is measured by a child process on one core, which ends with its parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.planning.latency import Meter

PROJECT = Path(__file__).parents[2]
TASKS = Path("/proc/{}/task")


@pytest.fixture(scope="module")
def meter():
    with Meter() as started:
        yield started


def test_a_latency_is_plausible_and_says_where(meter):
    begun = time.perf_counter()
    milliseconds = meter.measure(Topology(4, range(8)), image_size=32)
    took = time.perf_counter() - begun
    # 60.8 million multiply-accumulates: no core does 10 ** 13 of them per second.
    assert 1000 * 60.8e6 / 1e13 < milliseconds < 1000 * took
    assert "jax" in meter.where
    assert meter.where.startswith("one core of " if hasattr(os, "sched_getaffinity") else "all")


def test_more_layers_take_longer(meter):
    shallow, deep = (meter.measure(Topology(m, range(8)), 32) for m in (2, 10))
    # 6.5 against 248 million multiply-accumulates: a busy machine does not turn that round.
    assert deep > 2 * shallow


@pytest.mark.skipif(not TASKS.parent.parent.exists(), reason="only Linux tells of threads")
def test_every_thread_of_the_child_is_bound_to_the_same_core(meter):
    meter.measure(Topology(1, (0,)), 16)  # all threads that computing needs have started
    threads = os.listdir(str(TASKS).format(meter._child.pid))
    cores = {frozenset(os.sched_getaffinity(int(thread))) for thread in threads}
    [core] = cores
    assert len(core) == 1
    # This process keeps all of its own.
    assert core <= os.sched_getaffinity(0)


def test_wrong_questions_are_answered_in_one_line_and_the_next_ones_too(meter):
    with pytest.raises(UserError, match="1x1 pixels; conv2_2 needs") as raised:
        meter.measure(Topology(4, (0,)), 1)
    assert "\n" not in str(raised.value)
    assert meter.measure(Topology(1, (0,)), 16) > 0


def test_a_child_that_ended_or_hangs_is_told():
    with Meter() as meter:
        meter._child.kill()
        meter._child.wait()
        with pytest.raises(UserError, match="ended or did not answer"):
            meter.measure(Topology(1, (0,)), 16)
    with Meter(timeout=0.01) as meter, pytest.raises(UserError, match="did not answer"):
        meter.measure(Topology(1, (0,)), 16)


def test_closing_ends_the_child():
    with Meter() as meter:
        assert meter._child.returncode is None
    assert meter._child.returncode is not None


def test_the_child_ends_when_its_parent_is_killed():
    program = (
        "import os, signal; from privynet_jax.planning.latency import Meter; meter = Meter(); "
        "from privynet_jax.backbone.topology import Topology; "
        "meter.measure(Topology(1, (0,)), 16); print(meter._child.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    child = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(number):
    """Whether a process runs; what ended and waits for somebody to ask does not."""
    status = Path(f"/proc/{number}/stat")
    if status.parent.parent.is_dir() and Path("/proc/self").exists():
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
