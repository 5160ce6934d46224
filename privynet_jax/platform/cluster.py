"""Work on several machines: Ray brings units of it to workers, and their answers back.

A worker is a process with an accelerator of its own, or with CPU cores where the cluster has no
accelerators. Machines may join and go at any time: a new one gets workers, and what a lost one had
in hand is done again by another. The only file that knows Ray.

    with joined("auto", work, cores=4) as cluster:
        for unit, answer in cluster.answers(units, kind=lambda unit: unit.layer):
            ...  # answer = unit(work), in whatever order they are ready
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.errors import UserError, first_line, last_line
from privynet_jax.platform import signals
from privynet_jax.platform.devices import usable_cores, use_cpu_devices

_LOG = logging.getLogger(__name__)
LOCAL = "local"
# Seconds in which a cluster's head has to answer.
_CONNECT_SECONDS = 10.0
# Seconds in which a signal is noticed.
_TICK_SECONDS = 1.0
# Seconds between two looks for machines that joined.
_LOOK_SECONDS = 5.0
# Seconds without any worker after which that is told.
_PATIENCE_SECONDS = 30.0
# Workers that one unit may take with it before it is to blame.
_MOST_DEATHS = 3
# What decides a cell's numbers beside this library's own sources.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")

# Returns what is asked for of the work, in a worker.
Unit = Callable[[Any], Any]


@contextlib.contextmanager
def joined(address: str, work: Any, cores: int) -> Iterator["Cluster"]:
    """Yields a cluster: one on this machine alone, or that at an address.

    Args:
        address: "local", "auto" (the cluster that this machine is part of), or HOST:PORT of a
            cluster's head, of which this machine must be part.
        work: what all units are of, such as images and settings; it travels to every machine once.
        cores: the most CPU cores that a worker can use, where there are no accelerators.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be joined.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            'a cluster needs Ray, which is not installed; pip install "privynet_jax[cluster]"'
        ) from None
    own = {number: signal.getsignal(number) for number in signals.HANDLED}
    try:
        _connect(ray, address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"the cluster {address} cannot be joined ({first_line(error)}); give local, auto or "
            "HOST:PORT, and start Ray on this machine too: ray start --address=HOST:PORT"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in own.items():  # Ray has taken SIGTERM over
            signal.signal(number, handler)
    try:
        yield Cluster(ray, work, cores)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address not in (LOCAL, "auto"):  # Ray asks for minutes where nobody is
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal()):
            raise ValueError("that is no address and port")
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    cores = usable_cores() if address == LOCAL else None  # other machines have told theirs
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside JAX, and of Ray's own plans
        ray.init(address, num_cpus=cores, **quiet)


@dataclasses.dataclass(eq=False)
class _Hired:
    """A worker, and the kind of its last unit."""

    actor: Any
    kind: Hashable = None


class Cluster:
    """A cluster that this process has joined, and whose workers it hires."""

    def __init__(self, ray: Any, work: Any, cores: int) -> None:
        """Hires nobody yet; see `joined`."""
        self._ray, self._cores = ray, cores
        self._work = ray.put(work)  # which Ray copies once to each machine
        self._need: tuple[str, int] | None = None
        self._idle: list[_Hired] = []
        # What somebody is at: a unit, or None for a start.
        self._busy: dict[Any, tuple[_Hired, Unit | None]] = {}

    def answers(
        self,
        units: Sequence[Unit],
        early: int = 0,
        kind: Callable[[Unit], Hashable] = lambda unit: None,
    ) -> Iterator[tuple[Unit, Any]]:
        """Yields units with their answers, as soon as they are there, in any order.

        Args:
            units: what is to be done, all different, in the order in which it is best begun.
            early: so many of them come first. Of the others a worker prefers those of the kind that
                it did last, for which it has everything at hand.
            kind: tells what kind a unit is of.

        Raises:
            UserError: a unit raised it, or workers cannot start or die again and again.
            signals.Terminated: a signal came.
        """
        left, deaths, looked, patience = list(units), Counter(), -math.inf, _PATIENCE_SECONDS
        while left or any(unit is not None for _, unit in self._busy.values()):
            if time.monotonic() - looked >= _LOOK_SECONDS:  # asking a large cluster takes a while
                self._hire(len(left))
                looked = time.monotonic()
                patience -= _LOOK_SECONDS
                if patience <= 0 and not any(unit for _, unit in self._busy.values()):
                    _LOG.warning("no worker of the cluster is free, or can start; waiting for one")
                    patience = math.inf
            while self._idle and left:
                # The early ones that are left are in front of all others.
                are_early = len(left) > len(units) - early
                self._give(self._idle.pop(), left, kind, in_order=are_early)
            if not self._busy:  # all machines are still to come
                time.sleep(_LOOK_SECONDS)
                continue
            with (
                signals.deferred()
            ):  # an exception of ours, raised within Ray's code, is lost there
                done, _ = self._ray.wait(list(self._busy), timeout=_TICK_SECONDS)
            if signals.requested():
                raise signals.Terminated
            for reference in done:
                hired, unit = self._busy.pop(reference)
                try:
                    with signals.deferred():
                        answer = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except self._ray.exceptions.RayError as error:
                    self._bury(hired, error, deaths, unit)
                    left[:0] = [] if unit is None else [unit]
                    continue
                del deaths[unit]
                self._idle.append(hired)
                if unit is not None:
                    yield unit, answer

    def _bury(
        self, hired: _Hired, error: Exception, deaths: Counter[Unit | None], unit: Unit | None
    ) -> None:
        """Lets a worker go that does not answer; UserError for what is nobody's bad luck.

        Idle ones, which may have been lost with it, go too: none of them is to take a unit with it.
        """
        for each in (hired, *self._idle):
            self._ray.kill(each.actor)  # should it be alive, and out of reach
        self._idle.clear()
        deaths[unit] += 1
        if deaths[unit] == _MOST_DEATHS:
            what = "with the same work in hand" if unit else "before they had begun"
            raise UserError(
                f"{_MOST_DEATHS} workers of the cluster died {what}, the last one of: "
                f"{last_line(error)}; install the same on all machines, give them more memory, or "
                "look into Ray's logs"
            ) from error

    def _hire(self, left: int) -> None:
        """Starts as many workers as there are places for, and units to do."""
        places = self._places()
        wanted = left + sum(unit is not None for _, unit in self._busy.values())
        for _ in range(min(places, wanted) - len(self._idle) - len(self._busy)):
            kind, count = self._need
            options = {"GPU": {"num_gpus": 1}, "TPU": {"resources": {"TPU": 1}}}
            actor = (
                self._ray.remote(_Worker)
                .options(**options.get(kind, {}), num_cpus=count if kind == "CPU" else 1)
                .remote()
            )
            start = actor.start.remote(versions(), count, [self._work])
            self._busy[start] = _Hired(actor), None

    def _give(
        self, hired: _Hired, left: list[Unit], kind: Callable[[Unit], Hashable], *, in_order: bool
    ) -> None:
        kinds = [kind(unit) for unit in left]
        unit = left.pop(0 if in_order or hired.kind not in kinds else kinds.index(hired.kind))
        hired.kind = kind(unit)
        self._busy[hired.actor.do.remote(unit)] = hired, unit

    def _places(self) -> int:
        """Returns how many workers the machines of the cluster can have, busy ones included."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for kind in ("GPU", "TPU", "CPU"):
            counts = [int(machine.get(kind, 0)) for machine in machines]
            if self._need is None and any(counts):
                most = self._cores if kind == "CPU" else 1
                self._need = kind, min(most, *filter(None, counts))
        if self._need is None:
            return 0
        kind, count = self._need
        return sum(int(machine.get(kind, 0)) // count for machine in machines)


class _Worker:
    """What runs in a worker's process; Ray chose its machine, and shows it its accelerator only."""

    def start(self, expected: Mapping[str, str], cores: int, work: Sequence[Any]) -> None:
        """Gets the work, if this is the driver's very software; the reference is in a list."""
        own = versions()
        if unlike := [name for name in expected if own[name] != expected[name]]:
            different = ", ".join(f"{n} {own[n]} and not {expected[n]}" for n in unlike)
            raise UserError(
                f"the machine {platform.node()} has {different}; install the same on all machines"
            )
        use_cpu_devices(cores)
        import ray

        self._work = ray.get(work[0])

    def do(self, unit: Unit) -> Any:
        try:
            return unit(self._work)
        except (UserError, OSError) as error:  # such as a full disk
            raise UserError(f"{platform.node()}: {error}") from error


@functools.cache
def versions() -> dict[str, str]:
    """Returns what decides a result beside its input: versions, and a digest of these sources."""
    sources, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.glob("**/*.py")):
        sources.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"privynet_jax": sources.hexdigest()[:12], **found}
