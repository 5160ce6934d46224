"""The one exception whose message is written for the person at the keyboard.

Every room raises it for bad input; `experiments` print its single line and exit with status 1.
What diverged, one topology's training of many, is told only once the others are done:

    with everything_first() as postponed:
        for group in groups:
            with postponed():
                ...
"""

import contextlib
from collections.abc import Callable, Iterator


class UserError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do, on one line."""


class DivergedError(UserError):
    """Training diverged on one topology: it would pass for privacy there, and spoils no other's."""


@contextlib.contextmanager
def everything_first() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Yields what puts off a DivergedError that is raised within it.

    Raises:
        DivergedError: at the end, where there were any; it says what each of them does.
    """
    errors: dict[str, None] = {}

    @contextlib.contextmanager
    def postponed() -> Iterator[None]:
        try:
            yield
        except DivergedError as error:
            errors[str(error)] = None

    yield postponed
    if errors:
        raise DivergedError("; and ".join(errors))


def first_line(error: Exception) -> str:
    """Returns the first line of what another library says, its exception's name if nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: Exception) -> str:
    """Returns the last line of what another library says: of a traceback, what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
