"""How a command runs: flags are read, and whatever is wrong with them ends in one line."""

import contextlib
import gc
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from privynet_jax.platform import signals
from privynet_jax.platform.ending import ending_in_one_line, fail, print_any_name


def run(main: Callable[[], None], *, continues: bool = False) -> NoReturn:
    """Parses flags, runs a command, and ends bad input in one line and exit status 1.

    Whoever stops it is told that it `continues` where it was stopped, or that it does not.
    """

    def guarded(arguments: Sequence[str]) -> None:
        if len(arguments) > 1:
            fail(f"unexpected argument {arguments[1]!r}; flags start with --, see --help")
        _check_used(main.__module__)
        # JAX tells at INFO which accelerators it did not find.
        logging.set_verbosity(logging.WARNING)
        try:
            with ending_in_one_line("to continue" if continues else "from the start"):
                main()
        finally:
            if main.__module__ == "__main__":  # in a notebook, Python goes on
                with contextlib.suppress(AttributeError, OSError):  # none, or nobody reads it
                    sys.stdout.flush()
                signals.end_at_once()

    if not gc.isenabled():  # see `__init__.py`
        gc.freeze()
        gc.enable()
    print_any_name()
    app.run(guarded, flags_parser=_parse_flags)


def _check_used(module: str) -> None:
    """Flags that commands share are for those that declare them, and mean nothing to others."""
    used = flags.FLAGS.get_key_flags_for_module(module)
    for flag in flags.FLAGS.flags_by_module_dict().get("experiments.cli", ()):
        if flag.present and flag not in used:
            fail(f"--{flag.name} means nothing to this command; leave it out, or see --help")


def _check_finite() -> None:
    """No flag of any command means anything by NaN or infinity, which pass absl's bounds."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            fail(f"--{name}={value}: allowed are finite numbers; see --help")


def _with_flag_files(arguments: Iterable[str], folders: Sequence[Path]) -> Iterator[str]:
    """Yields arguments, and in place of each --flagfile its lines; folders are where to look."""
    waiting = iter(arguments)
    for argument in waiting:
        name, is_whole, path = argument.partition("=")
        if name.lstrip("-") != "flagfile" or not name.startswith("-"):
            yield argument
            continue
        path = path if is_whole else next(waiting, "")
        places = [folder / os.path.expanduser(path) for folder in folders]
        file = next(filter(Path.is_file, places), Path(path))
        lines = map(str.strip, file.read_text(encoding="utf-8").splitlines())
        inside = [line for line in lines if line and not line.startswith(("#", "//"))]
        yield from _with_flag_files(inside, (file.parent, *folders[-2:]))


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    try:
        # Here, or where `experiments` is installed.
        given = _with_flag_files(arguments, (Path(), Path(__file__).parents[1]))
        left = flags.FLAGS(list(given))
    except SystemExit:  # absl's after --help, by which it means a failure
        sys.exit(0)
    except flags.Error as error:
        # absl begins some messages with a heading of its own.
        fail(f"{str(error).removeprefix('ERROR:: ')}; see --help")
    except OSError as error:  # a flag file that cannot be read
        fail(f"{error.filename}: {error.strerror}; check --flagfile")
    except RecursionError:
        fail("a flag file names itself; check --flagfile")
    except UnicodeDecodeError:
        fail("the flag file is not text; check --flagfile")
    except ValueError as error:  # absl's own where a switch such as --nolabelled gets a value
        fail(f"{error}; see --help")
    _check_finite()
    return left
