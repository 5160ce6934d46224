"""Signals end work at once, or wait until they are asked for."""

import os
import signal

import pytest

from privynet_jax.platform.signals import (
    HANDLED,
    Terminated,
    deferred,
    exit_status,
    handle_signals,
    requested,
)


@pytest.fixture(autouse=True)
def handler():
    before = {n: signal.getsignal(n) for n in HANDLED}
    handle_signals()
    yield
    handle_signals()  # forgets what was requested
    for number, former in before.items():
        signal.signal(number, former)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_at_once(number):
    assert not requested()
    with pytest.raises(Terminated):
        send(number)


def test_nohup_is_left_alone():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handle_signals()
    send(signal.SIGHUP)
    assert not requested()


def test_deferred_work_asks():
    with deferred():
        assert not requested()
        send()
        assert requested()
    assert requested()


def test_errors_end_the_deferral():
    with pytest.raises(KeyError), deferred():
        raise KeyError
    with pytest.raises(Terminated):
        send()


def test_handlers_of_errors_let_it_pass():
    assert not issubclass(Terminated, Exception)


def test_ctrl_c_at_once():
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_only_the_first_ctrl_c_is_deferred():
    with deferred():
        send(signal.SIGINT)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_status_names_the_signal(number, status):
    with deferred():
        send(number)
    assert exit_status() == status
