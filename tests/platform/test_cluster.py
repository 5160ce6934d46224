"""Who does what on a cluster: a stand-in for Ray, in one thread, is told who dies and who joins."""

import functools
import os
import signal
from collections import Counter
from types import SimpleNamespace

import pytest

from privynet_jax.errors import UserError
from privynet_jax.platform import cluster, signals
from privynet_jax.platform.cluster import Cluster, joined, versions


class RayError(Exception):
    """What Ray raises where a worker died."""


class RayTaskError(RayError):
    """What Ray raises where a call did."""

    def __init__(self, cause):
        super().__init__("a traceback")
        self.cause = cause


class StandIn:
    """As much of Ray as a cluster uses; `dies` is asked, per call, whether its worker dies of it.

    An actor's call is made when somebody asks for its answer, and the oldest is ready first.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda machine, soft: machine
        )
    )

    def __init__(self, *machines, dies=lambda call: False):
        self.machines = []
        self.dies, self.hired, self.killed = dies, [], []
        for machine in machines:
            self.join(machine)

    def join(self, machine):
        number = len(self.machines)
        about = {"NodeID": f"{number:x}", "NodeManagerHostname": f"m{number}", "Alive": True}
        self.machines.append({**about, "Resources": machine})

    def put(self, value):
        return value

    def nodes(self):
        return self.machines

    def remote(self, worker):
        def hire(options):
            actor = SimpleNamespace(machine=options.pop("scheduling_strategy"))
            for name in ("start", "do"):
                call = functools.partial(functools.partial, getattr(worker, name), actor)
                setattr(actor, name, SimpleNamespace(remote=call))
            self.hired.append(options)
            return actor

        return SimpleNamespace(options=lambda **given: SimpleNamespace(remote=lambda: hire(given)))

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if self.dies(reference):
            raise RayError("The actor died.\nout of memory")
        try:
            return reference()
        except Exception as error:
            raise RayTaskError(error) from error

    def kill(self, actor):
        self.killed.append(actor)


class Unit:
    """Work on a layer; remembers who did it, in order."""

    def __init__(self, name, layer, done):
        self.name, self.layer, self.done = name, layer, done

    def __call__(self, work):
        self.done.append(self.name)
        return work * self.name


@pytest.fixture(autouse=True)
def _workers_start_at_once(monkeypatch):
    def start(self, expected, cores, work):
        [self._work] = work

    monkeypatch.setattr(cluster._Worker, "start", start)
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "_TICK_SECONDS", 0.0)


def answers(ray, units, cores=1, early=0):
    """Name of a unit -> its answer, as they come."""
    found = Cluster(ray, 10, cores).answers(units, early, lambda unit: unit.layer)
    return {unit.name: answer for unit, answer in found}


def units_of(*layers):
    done = []
    return done, [Unit(number, layer, done) for number, layer in enumerate(layers)]


def test_a_worker_goes_on_with_its_layer():
    done, units = units_of(2, 4, 7, 2, 4, 7, 2)
    assert answers(StandIn({"CPU": 2.0}), units) == {n: 10 * n for n in range(7)}
    # Two workers begin with 2 and 4; who is through with one takes the first of what is left.
    assert Counter(done) == Counter(range(7))
    assert [units[n].layer for n in done] == [2, 4, 2, 4, 2, 7, 7]


@pytest.mark.parametrize(
    ("machines", "cores", "options", "workers"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}, {}], 16, {"num_cpus": 4}, 3),
        ([{"CPU": 8.0}], 3, {"num_cpus": 3}, 2),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], 4, {"num_gpus": 1, "num_cpus": 1}, 2),
        ([{"CPU": 96.0, "TPU": 4.0}] * 2, 4, {"resources": {"TPU": 1}, "num_cpus": 1}, 8),
    ],
    ids=["least", "cores", "gpu", "tpu"],
)
def test_what_a_worker_has_for_itself(machines, cores, options, workers):
    ray = StandIn(*machines)
    answers(ray, units_of(*range(9))[1], cores)
    assert ray.hired == [options] * workers


def test_no_more_workers_than_units():
    ray = StandIn({"CPU": 64.0})
    answers(ray, units_of(2, 2)[1])
    assert len(ray.hired) == 2


def test_what_a_dead_worker_had_is_done_again_and_nothing_else():
    died = []

    def dies(call):
        # One in the middle of unit 2, another one before it had begun.
        unlucky = call.args[1:] == (units[2],) or (len(ray.hired) == 3 and len(call.args) > 2)
        died.append(call) if unlucky and len(died) < 2 else None
        return call in died

    done, units = units_of(2, 4, 2, 4, 2)
    ray = StandIn({"CPU": 2.0}, dies=dies)
    assert answers(ray, units) == {n: 10 * n for n in range(5)}
    assert Counter(done) == Counter(range(5))
    assert len(ray.killed) == len(died) == 2
    assert len(ray.hired) == 4


def test_work_that_kills_every_worker_is_told():
    _, units = units_of(2, 4)
    ray = StandIn({"CPU": 1.0}, dies=lambda call: call.args[1:] == (units[1],))
    with pytest.raises(UserError, match=r"3 workers .* same work in hand, .*: out of memory; give"):
        answers(ray, units)
    ray = StandIn({"CPU": 1.0}, dies=lambda call: True)
    with pytest.raises(UserError, match=r"machine m0 .* 3 workers cannot start, .*: out of memory"):
        answers(ray, units)


def test_workers_that_were_lost_while_idle_are_not_held_against_a_unit():
    (_, units), lost = units_of(2, 4, 7, 10, 13), []
    ray = StandIn({"CPU": 4.0}, dies=lambda call: any(call.args[0] is actor for actor in lost))
    hirer = Cluster(ray, 10, 1)
    assert len(list(hirer.answers(units[:4]))) == 4
    lost += [hired.actor for hired in hirer._idle]
    assert len(lost) == 4
    assert list(hirer.answers(units[4:])) == [(units[4], 40)]
    assert len(ray.hired) == 5


def test_who_joins_late_helps():
    ray = StandIn()
    done, units = units_of(2, 4, 7, 10)
    coming = iter([{"CPU": 1.0}, {"CPU": 1.0}])
    looks = []

    def nodes():
        looks.append(0)
        if len(looks) in (3, 5):
            ray.join(next(coming))
        return ray.machines

    ray.nodes = nodes
    answers(ray, units)
    assert Counter(done) == Counter(range(4))
    assert len(ray.hired) == 2


def test_a_machine_with_other_software_is_left_out(monkeypatch, caplog):
    refused = []

    def start(self, expected, cores, work):
        if self.machine == "1":
            refused.append(self)
            raise UserError("it has jax 0.1 and not 0.2")
        [self._work] = work

    monkeypatch.setattr(cluster._Worker, "start", start)
    done, units = units_of(2, 4, 7, 2, 4, 7)
    ray = StandIn({"CPU": 1.0}, {"CPU": 4.0}, {"CPU": 1.0})
    assert answers(ray, units) == {n: 10 * n for n in range(6)}
    assert Counter(done) == Counter(range(6))
    assert len(refused) == 4
    assert ray.killed == refused
    told = caplog.messages[0]
    assert sum("cannot help" in message for message in caplog.messages) == 1
    assert told.startswith("the machine m1 cannot help: it has jax 0.1 and not 0.2; install")
    ray.machines.pop(2)
    ray.machines.pop(0)
    with pytest.raises(UserError, match=told):  # nobody else is there
        answers(ray, units)


def test_a_machine_where_workers_die_before_they_begin_is_left_out(caplog):
    _, units = units_of(2, 4, 7)
    ray = StandIn({"CPU": 1.0}, {"CPU": 1.0}, dies=lambda call: call.args[0].machine == "1")
    assert len(answers(ray, units)) == 3
    assert len(ray.killed) <= 3
    assert "the machine m1 cannot help: 3 workers cannot start" in caplog.text


def test_a_signal_comes_between_two_answers():
    before = signal.signal(signal.SIGTERM, signals._on_signal)
    done, units = units_of(2, 4, 7)
    saved = []

    def save(found):
        for unit, _ in found:
            os.kill(os.getpid(), signal.SIGTERM)
            saved.append(unit.name)

    try:
        with pytest.raises(signals.Terminated):
            save(Cluster(StandIn({"CPU": 1.0}), 10, 1).answers(units))
    finally:
        signal.signal(signal.SIGTERM, before)
        signals._received.clear()
    assert done == saved == [0]
    assert not signals._deferring


def test_errors_of_units_are_the_callers():
    def refuse(work):
        raise UserError("the disk is full")

    refuse.layer = 2
    with pytest.raises(UserError, match=r"^\S+: the disk is full$"):
        answers(StandIn({"CPU": 1.0}), [refuse])


def test_other_software_is_refused(monkeypatch):
    monkeypatch.undo()
    expected = {**versions(), "jax": "0.1", "privynet_jax": "0123456789ab"}
    told = r"^it has privynet_jax \w{12} and not 0123456789ab, jax \S+ and not 0\.1$"
    with pytest.raises(UserError, match=told):
        cluster._Worker().start(expected, 1, [])


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", ".*refused"),
        *((address, "that is no address and port") for address in ("nowhere", "127.0.0.1:port")),
    ],
)
def test_a_cluster_that_is_not_there(address, why):
    pytest.importorskip("ray")
    told = rf"the cluster {address} cannot be joined \({why}\); give local, auto or HOST:PORT"
    with pytest.raises(UserError, match=told), joined(address):
        pass
