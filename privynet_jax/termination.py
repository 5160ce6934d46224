"""What SIGTERM does: the last warning before a machine is taken away.

Usually it ends the process at once, as an exception that cleans up on its way. Work that has
something to save first defers it, looks whether it has come, saves, and then gives way.

    raise_on_sigterm()
    with deferred():
        for step in range(steps):
            ...
            if requested():
                save()
                raise Terminated
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Terminated(BaseException):
    """SIGTERM came; the same command continues later."""


# Signals belong to the process, and so does this state.
_requested = threading.Event()
_deferring = threading.Event()


def raise_on_sigterm() -> None:
    """Makes SIGTERM raise `Terminated` in the main thread, from which this must be called."""
    _requested.clear()
    signal.signal(signal.SIGTERM, _on_sigterm)


def requested() -> bool:
    """Whether SIGTERM has come."""
    return _requested.is_set()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Lets SIGTERM raise nothing within the body, which is to ask `requested` now and then."""
    _deferring.set()
    try:
        yield
    finally:
        _deferring.clear()


def _on_sigterm(*_: Any) -> None:
    _requested.set()
    if not _deferring.is_set():
        raise Terminated
