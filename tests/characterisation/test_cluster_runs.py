"""A grid on machines that are processes of this one: a worker dies, one joins, the command dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny_runs
from support.whole_runs import all_tables, config_in

from privynet_jax.training.tasks import Schedule

pytestmark = pytest.mark.slow

cluster_utils = pytest.importorskip("ray.cluster_utils")
PROJECT = Path(__file__).parents[2]
_TOO_LONG = 240


class Machines:
    """A Ray cluster whose machines are processes here, each with one core."""

    def __init__(self):
        # The head has no cores, so the command that runs there does no work.
        small = {"object_store_memory": 2**27}
        self.ray = cluster_utils.Cluster(True, head_node_args={"num_cpus": 0, **small})
        self.nodes, self._small = [], small

    def add(self):
        self.nodes.append(self.ray.add_node(num_cpus=1, wait=False, **self._small))

    def worker(self):
        """The process id of a worker that is at work."""
        end = time.monotonic() + _TOO_LONG
        while not (found := self.workers()) and time.monotonic() < end:
            time.sleep(0.02)
        return found[0]

    def workers(self):
        """Process ids of the workers that are at work."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # no process, or one that has just ended
                title = (folder / "cmdline").read_bytes()
                if title.startswith(b"ray::_Worker.do") and self._are_here(folder):
                    found.append(int(folder.name))
        return found

    def _are_here(self, folder):
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        raylets = [
            process.process.pid for node in self.nodes for process in node.all_processes["raylet"]
        ]
        return parent in raylets


@pytest.fixture
def machines(monkeypatch):
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_USAGE_STATS_ENABLED", "0")):
        monkeypatch.setenv(name, value)
    machines = Machines()
    yield machines
    machines.ray.shutdown()


class Written:
    """The cells of a work directory, each of which may be written once."""

    def __init__(self, workdir):
        self.workdir, self.files = workdir, {}

    def count(self):
        for path in self.workdir.glob("cells/*.json"):
            file = path.stat()
            identity = (file.st_ino, file.st_mtime_ns)
            assert self.files.setdefault(path.name, identity) == identity, path.name
        return len(self.files)

    def wait_for(self, count, command, log):
        end = time.monotonic() + _TOO_LONG
        while self.count() < count:
            assert command.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)


def test_machines_die_and_join(finished_alone, machines, tmp_path, test_data_dir):
    config = grid(tmp_path, test_data_dir)
    written, log = Written(config.workdir), tmp_path / "log"
    command = [sys.executable, "-m", "experiments.characterize", *tiny_runs.as_flags(config)]
    command += [f"--cluster={machines.ray.address}"]

    def start():
        with log.open("a") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, cwd=PROJECT)

    machines.add()
    machines.add()
    first = start()
    written.wait_for(1, first, log)
    victim = machines.worker()
    os.kill(victim, signal.SIGKILL)
    machines.add()
    written.wait_for(3, first, log)
    first.kill()
    assert first.wait() == -signal.SIGKILL, "it had ended before it was killed"
    assert written.count() < 6
    second = start()
    assert second.wait(timeout=_TOO_LONG) == 0, log.read_text()
    assert written.count() == 6
    for name, rows in all_tables(config.workdir).items():
        assert rows == finished_alone[name]
    assert victim not in machines.workers()
    assert (config.workdir / "tradeoff.png").exists()


def grid(folder, data_dir):
    """Six cells, one per layer, so that one process has a device as each worker has."""
    schedule = Schedule(steps=60, batch_size=8)
    changes = {"layers": (2, 4, 6, 7, 8, 10), "depths": (2,), "draws": 1}
    return config_in(folder, data_dir, cloud=schedule, attacker=schedule, **changes)


@pytest.fixture
def finished_alone(vgg_weights, tmp_path_factory, test_data_dir):
    """The tables of one process that does everything."""
    config = grid(tmp_path_factory.mktemp("alone"), test_data_dir)
    command = [sys.executable, "-m", "experiments.characterize", *tiny_runs.as_flags(config)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return all_tables(config.workdir)
