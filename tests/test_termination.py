"""SIGTERM ends work at once, or waits until it is asked for."""

import os
import signal

import pytest

from privynet_jax.termination import Terminated, deferred, raise_on_sigterm, requested


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGTERM)
    raise_on_sigterm()
    yield
    raise_on_sigterm()  # forgets what was requested
    signal.signal(signal.SIGTERM, before)


def send():
    os.kill(os.getpid(), signal.SIGTERM)


def test_at_once():
    assert not requested()
    with pytest.raises(Terminated):
        send()


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
