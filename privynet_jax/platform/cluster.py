"""Work on several machines: Ray brings units of it to workers, and their answers back.

A worker is a process with an accelerator of its own, or with CPU cores where the cluster has no
accelerators. Machines may join and go at any time: a new one gets workers, and what a lost one had
in hand is done again by another. The only file that knows Ray.

    with joined("auto") as hire:
        cluster = hire(functools.partial(load, path), cores=4)
        for unit, answer in cluster.answers(units, kind=lambda unit: unit.layer):
            ...  # answer = unit(load(path)), in whatever order they are ready
"""

import contextlib
import dataclasses
import functools
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
from typing import Any

from privynet_jax.errors import UserError, first_line, last_line
from privynet_jax.platform import signals
from privynet_jax.platform.devices import usable_cores, use_cpu_devices
from privynet_jax.platform.digests import versions

_LOG = logging.getLogger(__name__)
LOCAL = "local"
# Seconds in which a cluster's head has to answer.
_CONNECT_SECONDS = 10.0
# Seconds in which a signal is noticed.
_TICK_SECONDS = 1.0
# Seconds between two looks for machines that joined.
_LOOK_SECONDS = 5.0
# Looks without anybody at work after which that is told.
_PATIENT_LOOKS = 6
# Workers that one unit may take with it before it is to blame.
_MOST_DEATHS = 3

# Returns what is asked for of the work, in a worker.
Unit = Callable[[Any], Any]


@contextlib.contextmanager
def joined(address: str) -> Iterator[Callable[..., "Cluster"]]:
    """Yields what makes a `Cluster`, of its arguments but the first.

    Args:
        address: "local" (this machine alone), "auto" (the cluster that this machine is part of), or
            HOST:PORT of a cluster's head, of which this machine must be part.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be joined.
        signals.Terminated: a signal came.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            'a cluster needs Ray, which is not installed; pip install "privynet_jax[cluster]"'
        ) from None
    own = {number: signal.getsignal(number) for number in signals.HANDLED}
    try:
        with signals.deferred():  # an exception of ours, raised within Ray's code, is lost there
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
        if signals.requested():
            raise signals.Terminated
        yield functools.partial(Cluster, ray)
    finally:
        with signals.deferred():
            ray.shutdown()  # which ends this process's workers


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
    """A worker, its machine, and the kind of its last unit."""

    actor: Any
    machine: str
    kind: Hashable = None


class Cluster:
    """A cluster that this process has joined, and whose workers it hires."""

    def __init__(self, ray: Any, work: Callable[[], Any], cores: int) -> None:
        """Hires nobody yet; see `joined`.

        Args:
            ray: the module.
            work: called by each worker once; what it returns, such as images and settings, is what
                units are of. It travels to every machine once.
            cores: the most CPU cores that a worker can use, where there are no accelerators.
        """
        self._ray, self._cores = ray, cores
        self._work = ray.put(work)  # which Ray copies once to each machine
        self._need: tuple[str, int] | None = None
        self._idle: list[_Hired] = []
        # What somebody is at: a unit, or None for a start.
        self._busy: dict[Any, tuple[_Hired, Unit | None]] = {}
        self._left_out: dict[str, str] = {}  # machine -> why
        # Of a unit, or of starts on a machine.
        self._deaths: Counter[Unit | str] = Counter()
        self._vain_looks = 0

    def answers(
        self,
        units: Sequence[Unit],
        early: int = 0,
        kind: Callable[[Unit], Hashable] = lambda unit: None,
    ) -> Iterator[tuple[Unit, Any]]:
        """Yields units with their answers, as soon as they are there, in any order.

        Signals are deferred, also in whoever takes the answers; it is stopped by the next look.

        Args:
            units: what is to be done, all different, in the order in which it is best begun.
            early: so many of them come first. Of the others a worker prefers those of the kind that
                it did last, for which it has everything at hand.
            kind: tells what kind a unit is of.

        Raises:
            UserError: a unit raised it, workers die of it again and again, or no machine is usable.
            signals.Terminated: a signal came.
        """
        left, looked = list(units), -math.inf
        with signals.deferred():
            while left or any(unit is not None for _, unit in self._busy.values()):
                if signals.requested():
                    raise signals.Terminated
                if time.monotonic() - looked >= _LOOK_SECONDS:  # asking many takes a while
                    self._hire(len(left))
                    self._tell_of_waiting()
                    looked = time.monotonic()
                while self._idle and left:
                    # The early ones that are left are in front of all others.
                    are_early = len(left) > len(units) - early
                    self._give(self._idle.pop(), left, kind, in_order=are_early)
                if not self._busy:  # all machines are still to come
                    time.sleep(_TICK_SECONDS)
                    continue
                done, _ = self._ray.wait(list(self._busy), timeout=_TICK_SECONDS)
                for reference in done:
                    yield from self._answered(reference, left)

    def _tell_of_waiting(self) -> None:
        """Warns where nobody has been at work for a while; UserError where no machine is usable."""
        working = any(unit is not None for _, unit in self._busy.values())
        self._vain_looks = 0 if working else self._vain_looks + 1
        if self._vain_looks >= _PATIENT_LOOKS and self._left_out and not self._places():
            raise UserError(next(iter(self._left_out.values())))
        if self._vain_looks == _PATIENT_LOOKS:
            _LOG.warning("no worker of the cluster is free, or can start; waiting for one")

    def _answered(self, reference: Any, left: list[Unit]) -> list[tuple[Unit, Any]]:
        """Returns a unit with its answer, if it was one; of a worker that died it is left."""
        hired, unit = self._busy.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if unit is not None:
                raise error.cause from error
            self._ray.kill(hired.actor)
            self._leave_out(hired.machine, first_line(error.cause))
            return []
        except self._ray.exceptions.RayError as error:
            left[:0] = [] if unit is None else [unit]
            self._bury(hired, error, unit)
            return []
        del self._deaths[unit or hired.machine]
        self._idle.append(hired)
        return [] if unit is None else [(unit, answer)]

    def _bury(self, hired: _Hired, error: Exception, unit: Unit | None) -> None:
        """Lets a worker go that does not answer; who is to blame where many did not.

        Idle ones, which may have been lost with it, go too: none of them is to take a unit with it.
        """
        for each in (hired, *self._idle):
            self._ray.kill(each.actor)  # should it be alive, and out of reach
        self._idle.clear()
        self._deaths[unit or hired.machine] += 1
        if self._deaths[unit or hired.machine] < _MOST_DEATHS:
            return
        last = f"the last one of: {last_line(error)}"
        if unit is None:
            return self._leave_out(hired.machine, f"{_MOST_DEATHS} workers cannot start, {last}")
        raise UserError(
            f"{_MOST_DEATHS} workers of the cluster died with the same work in hand, {last}; give "
            "the machines more memory, or look into Ray's logs"
        ) from error

    def _leave_out(self, machine: str, why: str) -> None:
        """Hires nobody there any more."""
        if machine in self._left_out:
            return
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in self._ray.nodes()}
        told = f"the machine {names[machine]} cannot help: {why}; install the same on all machines"
        self._left_out[machine] = told
        _LOG.warning(told)

    def _hire(self, left: int) -> None:
        """Starts as many workers as there are places for, and units to do; on all machines."""
        taken = Counter(own.machine for own in self._idle)
        taken.update(own.machine for own, _ in self._busy.values())
        free = sorted(
            (place, machine)
            for machine, places in self._places().items()
            for place in range(taken[machine], places)
        )
        wanted = left + sum(unit is not None for _, unit in self._busy.values())
        at_machine = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        options = {"GPU": {"num_gpus": 1}, "TPU": {"resources": {"TPU": 1}}}
        for _, machine in free[: max(0, wanted - taken.total())]:
            kind, count = self._need
            own = {**options.get(kind, {}), "num_cpus": count if kind == "CPU" else 1}
            own["scheduling_strategy"] = at_machine(machine, soft=False)
            actor = self._ray.remote(_Worker).options(**own).remote()
            start = actor.start.remote(versions(), count, [self._work])
            self._busy[start] = _Hired(actor, machine), None

    def _give(
        self, hired: _Hired, left: list[Unit], kind: Callable[[Unit], Hashable], *, in_order: bool
    ) -> None:
        same = () if in_order else (i for i, unit in enumerate(left) if kind(unit) == hired.kind)
        unit = left.pop(next(iter(same), 0))
        hired.kind = kind(unit)
        self._busy[hired.actor.do.remote(unit)] = hired, unit

    def _places(self) -> dict[str, int]:
        """Returns machine -> how many workers it can have, busy ones included."""
        machines = {
            node["NodeID"]: node["Resources"]
            for node in self._ray.nodes()
            if node["Alive"] and node["NodeID"] not in self._left_out
        }
        for kind in ("GPU", "TPU", "CPU"):
            counts = [int(machine.get(kind, 0)) for machine in machines.values()]
            if self._need is None and any(counts):
                most = self._cores if kind == "CPU" else 1
                self._need = kind, min(most, *filter(None, counts))
        if self._need is None:
            return {}
        kind, count = self._need
        places = {name: int(machine.get(kind, 0)) // count for name, machine in machines.items()}
        return {name: number for name, number in places.items() if number}


class _Worker:
    """What runs in a worker's process; Ray chose its machine, and shows it its accelerator only."""

    def start(self, expected: Mapping[str, str], cores: int, work: Sequence[Any]) -> None:
        """Gets the work, if this is the driver's very software; the reference is in a list."""
        own = versions()
        if unlike := [name for name in expected if own[name] != expected[name]]:
            different = ", ".join(f"{n} {own[n]} and not {expected[n]}" for n in unlike)
            raise UserError(f"it has {different}")
        use_cpu_devices(cores)
        import ray

        self._work = ray.get(work[0])()

    def do(self, unit: Unit) -> Any:
        try:
            return unit(self._work)
        except (UserError, OSError) as error:  # such as a full disk
            raise UserError(f"{platform.node()}: {error}") from error
