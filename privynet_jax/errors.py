"""The one exception whose message is written for the person at the keyboard.

Every room raises it for bad input; `experiments` print its single line and exit with status 1.
"""


class UserError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do, on one line."""


def first_line(error: Exception) -> str:
    """Returns the first line of what another library says, its exception's name if nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
