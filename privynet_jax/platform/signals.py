"""What SIGTERM, SIGHUP and Ctrl-C do: a machine is taken away, a terminal closed, or it is a wish.

Usually they end the process at once, as exceptions that clean up on their way. Work that has
something to save first defers them, looks whether one has come, saves, and then gives way.

    handle_signals()
    with deferred():
        for step in range(steps):
            ...
            if requested():
                save()
                raise Terminated
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any


class Terminated(BaseException):
    """A signal came that is no Ctrl-C, or was deferred; the same command continues later."""


HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Signals belong to the process, and so does this state.
_received: list[int] = []
_deferring: list[None] = []  # one entry per body of `deferred`, as they may lie in one another


def handle_signals() -> None:
    """Takes over SIGTERM, SIGINT and SIGHUP; to be called from the main thread.

    Under nohup, which ignores SIGHUP, that stays ignored.
    """
    _received.clear()
    _take_over(_on_signal)


def end_at_once(line: str = "") -> None:
    """Lets signals end the process without more, but for a line on standard error.

    For its begin and its end: nothing is to be saved, and imports and threads that are joined would
    answer an exception with a traceback.
    """

    def end(number: int, _: Any) -> None:
        if line:
            os.write(2, f"{line}\n".encode())
        os._exit(128 + number)

    _take_over(end)


def requested() -> bool:
    """Whether a signal has come."""
    return bool(_received)


def exit_status() -> int:
    """Returns what shells expect after a signal, 128 plus its number; SIGTERM's if none came."""
    return 128 + (_received[-1] if _received else signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Lets signals raise nothing within the body, which is to ask `requested` now and then.

    Somebody who presses Ctrl-C a second time does not want to wait: that is not deferred.
    """
    _deferring.append(None)
    try:
        yield
    finally:
        _deferring.pop()


def _take_over(handler: Callable[[int, Any], None]) -> None:
    for number in HANDLED:
        if number in (signal.SIGTERM, signal.SIGINT) or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _on_signal(number: int, _: Any) -> None:
    again = requested()
    _received.append(number)
    if number == signal.SIGINT and (again or not _deferring):
        raise KeyboardInterrupt
    if not _deferring:
        raise Terminated
