"""Commands that are killed or stopped by a signal: the next one ends as an undisturbed run."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from support import tiny_runs
from support.whole_runs import all_tables, config_in

from privynet_jax import characterise
from privynet_jax.training.tasks import Schedule

pytestmark = pytest.mark.slow


PROJECT = Path(__file__).parents[2]


def command_of(config, *flags):
    given = [*tiny_runs.as_flags(config), *flags]
    return [sys.executable, "-m", "experiments.characterize", *given]


def killed(config, seconds):
    """Runs the command, and kills it so long after it has saved what it trains; its status."""
    # A checkpoint at every dispatch, so that one is there whenever the kill comes.
    run = subprocess.Popen(command_of(config, "--checkpoint_minutes=0"), cwd=PROJECT)
    begun, training = time.time(), config.workdir / "training"
    while run.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # what is saved takes the place of the last
            if any(path.stat().st_mtime > begun for path in training.rglob("*")):
                break
        time.sleep(0.02)
    try:
        return run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.kill()
        return run.wait()


def test_a_run_killed_at_random_moments_ends_with_the_same_tables(
    finished, test_data_dir, tmp_path
):
    config = config_in(tmp_path, test_data_dir)
    moments = np.random.default_rng(33).uniform(0, finished.seconds / 8, 2)
    assert killed(config, moments[0]) == -signal.SIGKILL
    # By the second moment the rest may be done, if the machine is fast.
    assert killed(config, moments[1]) in (0, -signal.SIGKILL)
    subprocess.run(command_of(config, "--checkpoint_minutes=0"), check=True, cwd=PROJECT)
    # Another process, and what may be fewer devices, gave the same numbers to the last digit.
    assert all_tables(config.workdir) == all_tables(finished.config.workdir)


def test_sigterm_saves_and_the_next_run_continues_to_the_same_bits(vgg_weights, tmp_path, request):
    data_dir = request.getfixturevalue("test_data_dir")
    schedule = Schedule(steps=300, batch_size=8)
    long = {"layers": (3,), "cloud": schedule, "attacker": schedule}
    undisturbed, stopped = (
        config_in(tmp_path / name, data_dir, **long) for name in ("whole", "stopped")
    )
    characterise(undisturbed)
    # No checkpoint is due for hours: what is there afterwards was saved because of the signal.
    command = command_of(stopped, "--checkpoint_minutes=600")
    # In a terminal, which is told of progress at once.
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    run = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=PROJECT)
    os.close(theirs)
    log, told = "", False
    with contextlib.suppress(OSError):  # which ends what a terminal says
        while shown := os.read(ours, 4096):
            log += shown.decode(errors="replace").replace("\r\n", "\n")
            # At least a tenth of a cell is trained.
            if not told and re.search(r" [01]\.[1-9]/2 cells", log):
                told = True
                run.send_signal(signal.SIGTERM)
    os.close(ours)
    assert run.wait(timeout=60) == 128 + signal.SIGTERM, log
    assert log.endswith("stopped; run the same command again to continue\n")
    assert "Traceback" not in log
    assert len(list((stopped.workdir / "training").iterdir())) == 1
    assert list((stopped.workdir / "cells").iterdir()) == []
    again = subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True)
    assert "cannot be used" not in again.stderr
    assert all_tables(stopped.workdir) == all_tables(undisturbed.workdir)
    assert not (stopped.workdir / "training").exists()
