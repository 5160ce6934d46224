"""How commands end that cannot go on: in one line on standard error, and with an exit status.

    print_any_name()
    with ending_in_one_line("to continue"):
        main()

Those of `experiments` and the program on devices alike. No JAX here.
"""

import contextlib
import errno
import io
import sys
from collections.abc import Iterator
from typing import NoReturn

from privynet_jax.errors import UserError
from privynet_jax.platform import signals

EXPLAINED = {
    errno.ENOSPC: "free some disk space and run the same command again",
    errno.EDQUOT: "free some of your disk quota and run the same command again",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that you may write to"
    ),
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOENT: "check the path",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "give a folder"),
    errno.EISDIR: "give a file",
}


@contextlib.contextmanager
def ending_in_one_line(again: str) -> Iterator[None]:
    """Takes over signals; what is wrong ends the process, after what the body cleans up.

    Whoever stops it is told what running the same command `again` does: "to continue".
    """
    signals.handle_signals()
    try:
        yield
    except (signals.Terminated, KeyboardInterrupt):
        print(f"stopped; run the same command again {again}", file=sys.stderr)
        sys.exit(signals.exit_status())
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in EXPLAINED:
            raise
        fail(f"{error.filename or 'a file'}: {error.strerror}; {EXPLAINED[error.errno]}")


def fail(message: str) -> NoReturn:
    """Ends the command with one line on standard error and exit status 1."""
    # Some of it may be quoted from a file of somebody who wishes to write to this terminal.
    shown = "".join(c if c.isprintable() or _is_byte(c) else " " for c in message)
    print("error: " + " ".join(shown.split()), file=sys.stderr)
    sys.exit(1)


def print_any_name() -> None:
    """Names of files may hold what is no UTF-8, or what a terminal's encoding has no letter for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_byte(letter: str) -> bool:
    """Whether a letter stands for a byte of a name that is no UTF-8."""
    return "\udc80" <= letter <= "\udcff"
