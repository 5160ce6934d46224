"""How long the local NN takes on one image, on one core of the machine at hand.

    with Meter() as meter:
        meter.measure(topology, image_size=32), meter.where  # milliseconds, and the machine

A device rarely has this machine's cores to itself, so one core is the cautious figure. XLA decides
how many threads to use when it first computes, by the cores that the process may run on
(https://github.com/jax-ml/jax/issues/1539), so the measuring is done by a child process that is
bound to one core; it starts while its parent does something else, and ends with it.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.split import local_nn, made_up_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError

_WARM_UP = 3
_LEAST_REPEATS, _MOST_REPEATS, _SECONDS = 10, 200, 0.4
# Until the child answers: it starts, compiles, and may wait for busy cores.
_TIMEOUT = 120.0
_CPUINFO, _THREADS = Path("/proc/cpuinfo"), Path("/proc/self/task")


class Meter(contextlib.AbstractContextManager):
    """A child process that measures while this is open, and where it did: the machine, in words."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        """Starts the child, which gets ready by itself; an answer may take `timeout` seconds."""
        self.where = ""
        self._timeout = timeout
        self._child = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "JAX_PLATFORMS": "cpu",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def measure(self, topology: Topology, image_size: int) -> float:
        """Returns the latency of `split.local_nn`, in milliseconds, the median over repeats.

        It is from one image in memory to its representation in memory. The parameters are made up:
        a network takes as long whatever it multiplies, and whichever channels are released. The
        measuring process is not told them.

        Raises:
            UserError: the child process failed or did not answer in time.
        """
        layers, depth = topology.num_layers, topology.depth
        answer = self._ask((topology.backbone, layers, depth, image_size))
        if "milliseconds" not in answer:
            raise UserError(
                f"the latency of {layers} layers with {depth} channels could not be measured: "
                f"{answer.get('error', 'the measuring process ended or did not answer')}; plan "
                "without a limit on latency"
            )
        self.where = answer["where"]
        return answer["milliseconds"]

    def _ask(self, question: tuple[str, int, int, int]) -> dict[str, Any]:
        alarm = threading.Timer(self._timeout, self._child.kill)
        alarm.start()
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
            return json.loads(self._child.stdout.readline() or "{}")
        except (BrokenPipeError, ValueError):  # it ended, or was closed
            return {}
        finally:
            alarm.cancel()


def _serve() -> None:
    """Answers questions, one per line, until standard input ends, as it does with the parent."""
    cores = _bind_to_one_core()
    jax.config.update("jax_num_cpu_devices", 1)
    where = f"{cores} of {_machine()}, jax {jax.__version__}"
    for line in sys.stdin:
        try:
            answer = {"milliseconds": _median_milliseconds(*json.loads(line)), "where": where}
        except Exception as error:  # whatever it is, the parent must hear of it
            answer = {"error": " ".join(str(error).split())}
        print(json.dumps(answer), flush=True)


def _bind_to_one_core() -> str:
    """Binds this process, and the threads it will start, to its last core; says so in words."""
    if not hasattr(os, "sched_setaffinity"):
        return "all cores"  # there is no way to ask the system for one
    # Not the first one, where most systems handle their interrupts.
    core = {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, core)
    # Importing may have started threads already, which have a binding of their own.
    for thread in _THREADS.iterdir() if _THREADS.is_dir() else ():
        os.sched_setaffinity(int(thread.name), core)
    return "one core"


def _machine() -> str:
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return " ".join(f"{name} ({platform.system()})".split())


def _median_milliseconds(backbone: str, num_layers: int, depth: int, image_size: int) -> float:
    params = made_up_params(backbone_named(backbone), num_layers)
    compute = jax.jit(local_nn(params, Topology(num_layers, range(depth), backbone)))
    image = np.random.default_rng(0).random((1, image_size, image_size, 3), np.float32)
    seconds: list[float] = []
    for _ in range(_WARM_UP):
        np.asarray(compute(image))
    begun = time.perf_counter()
    while len(seconds) < _LEAST_REPEATS or (
        len(seconds) < _MOST_REPEATS and time.perf_counter() - begun < _SECONDS
    ):
        start = time.perf_counter()
        np.asarray(compute(image))
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
