"""A grid on machines that are processes of this one: a worker dies, one joins, a signal comes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_runs
from support.whole_runs import all_tables, config_in

from privynet_jax.training.tasks import Schedule

pytestmark = pytest.mark.slow

cluster_utils = pytest.importorskip("ray.cluster_utils")
PROJECT = Path(__file__).parents[2]
_TOO_LONG = 240
# The command, which tells of each cell that it gives to a worker.
_COMMAND = """
import runpy, sys
from privynet_jax.platform import cluster

def give(self, hired, left, *others, really=cluster.Cluster._give, **named):
    before = list(left)
    really(self, hired, left, *others, **named)
    [unit] = [unit for unit in before if unit not in left]
    for cell in getattr(unit, "keywords", {}).get("missing", ()):
        print("GIVEN", cell.name, flush=True)

cluster.Cluster._give = give
runpy.run_module("experiments.characterize", run_name="__main__", alter_sys=True)
"""


class Machines:
    """A Ray cluster whose machines are processes here, each with one core."""

    def __init__(self):
        # The head has no cores, so the command that runs there does no work.
        small = {"object_store_memory": 2**27}
        # Nobody looks at a dashboard, which is a dozen processes.
        head = {"num_cpus": 0, "include_dashboard": False, **small}
        self.ray = cluster_utils.Cluster(True, head_node_args=head)
        self.nodes, self._small = [], small

    def add(self, **given):
        self.nodes.append(self.ray.add_node(num_cpus=1, wait=False, **self._small, **given))

    def take(self, count):
        """Takes the first machines away."""
        for node in self.nodes[:count]:
            self.ray.remove_node(node)
        del self.nodes[:count]

    def worker(self):
        """The process id of a worker that is at work."""
        end = time.monotonic() + _TOO_LONG
        while not (found := self.workers("do")) and time.monotonic() < end:
            time.sleep(0.02)
        return found[0]

    def let_go(self):
        """Whether all workers end soon."""
        end = time.monotonic() + _TOO_LONG
        while (found := self.workers()) and time.monotonic() < end:
            time.sleep(0.1)
        return not found

    def workers(self, busy_with=""):
        """Process ids of the workers, or of those that are at something."""
        found, wanted = [], f"ray::_Worker.{busy_with}" if busy_with else "ray::_Worker"
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # no process, or one that has just ended
                title = (folder / "cmdline").read_bytes()
                if title.startswith(wanted.encode()) and self._are_here(folder):
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
    written, logs = Written(config.workdir), [tmp_path / name for name in ("one", "two")]
    command = [sys.executable, "-c", _COMMAND, *tiny_runs.as_flags(config)]
    command += [f"--cluster={machines.ray.address}"]

    def start(log):
        with log.open("w") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, cwd=PROJECT)

    other = tmp_path / "other" / "optax-9.9.dist-info" / "METADATA"
    other.parent.mkdir(parents=True)
    other.write_text("Metadata-Version: 2.1\nName: optax\nVersion: 9.9\n")
    machines.add(env_vars={"PYTHONPATH": str(tmp_path / "other")})
    machines.add()
    machines.add()
    first = start(logs[0])
    written.wait_for(1, first, logs[0])
    os.kill(machines.worker(), signal.SIGKILL)
    machines.add()
    written.wait_for(3, first, logs[0])
    first.terminate()
    assert first.wait(timeout=_TOO_LONG) == 128 + signal.SIGTERM, logs[0].read_text()
    assert machines.let_go()
    done = written.count()
    machines.take(2)
    second = start(logs[1])
    assert second.wait(timeout=_TOO_LONG) == 0, logs[1].read_text()
    assert machines.let_go()
    assert written.count() == 6
    for name, rows in all_tables(config.workdir).items():
        assert rows == finished_alone[name]
    assert (config.workdir / "tradeoff.png").exists()
    # Given twice is what was in the hands of somebody who died.
    given = [Counter(re.findall(r"GIVEN (\S+)", log.read_text())) for log in logs]
    assert sum(given[0].values()) <= len(given[0]) + 1
    assert max(given[1].values()) == 1
    assert len(given[1]) == 6 - done
    assert logs[0].read_text().count("cannot help: it has optax 9.9 and not") == 1


def grid(folder, data_dir):
    """Six cells, one per layer, so that one process has a device as each worker has.

    Three layers each have maps of one size, and so networks of one shape: few are compiled.
    """
    schedule = Schedule(steps=60, batch_size=8)
    changes = {"layers": (5, 6, 7, 8, 9, 10), "depths": (2,), "draws": 1}
    return config_in(folder, data_dir, cloud=schedule, attacker=schedule, **changes)


@pytest.fixture
def finished_alone(vgg_weights, tmp_path_factory, test_data_dir):
    """The tables of one process that does everything."""
    config = grid(tmp_path_factory.mktemp("alone"), test_data_dir)
    command = [sys.executable, "-m", "experiments.characterize", *tiny_runs.as_flags(config)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return all_tables(config.workdir)
