"""What every command needs around its job: the devices, flags in common and errors in one line."""

import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging

from privynet_jax.characterisation.config import Config
from privynet_jax.errors import UserError
from privynet_jax.platform import signals
from privynet_jax.platform.files import expanded, is_remote
from privynet_jax.platform.processes import Share, join
from privynet_jax.training.attackers import CAPACITIES

# A flag of more than one command is defined here, because two commands may not define it both.
CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    "~/.cache/privynet_jax",
    "Folder for weights and features; features also in a bucket, as in gs://bucket/folder.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a characterisation's results.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS data sets; default: TFDS's own.")
RELEASE = flags.DEFINE_string("release", None, "Release directory that experiments.extract wrote.")
PACKAGE = flags.DEFINE_string("package", None, "Package that experiments.export_local wrote.")
IMAGES = flags.DEFINE_string("images", None, "Pictures, as in folder:PATH.")
OUT = flags.DEFINE_string("out", None, "What to write; see the command's own help.")
MOST_SEED = 2**32 - 1
SEED = flags.DEFINE_integer("seed", 0, "Of everything that is random.", 0, MOST_SEED)
SKIP_UNREADABLE = flags.DEFINE_boolean(
    "skip_unreadable", Config.skip_unreadable, "Leave out images that cannot be decoded."
)
MAX_IMAGES = flags.DEFINE_list(
    "max_images", [], "Most images per part, as in target=3000,test=1000; default: all."
)
TRAINED_ATTACKERS = flags.DEFINE_list(
    "trained_attackers",
    list(Config.attackers),
    f"Of {', '.join(CAPACITIES)}; the strongest counts. Default: strong, or the mode's own.",
)
CHECKPOINT_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes", 5.0, "Minutes between two checkpoints of what is in training.", 0.0
)
WEIGHTS_HELP = (
    "Pretrained VGG16 weights: embedded, keras, or the path of a weight file (.h5, .keras, .pth, "
    ".safetensors) or of a folder that experiments.port_weights wrote."
)
WEIGHTS = flags.DEFINE_string(
    "weights", None, f"{WEIGHTS_HELP} Default: embedded, or where a plan had them from."
)
PLAN = flags.DEFINE_string("plan", None, "The plan.json that experiments.plan wrote.")
# The names are those of `jax.distributed.initialize`.
COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for several processes off TPU pods."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes that share the work; default: all of a TPU pod, else 1.", 1
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", 0)


def run(main: Callable[[], None], *, continues: bool = True) -> NoReturn:
    """Parses flags, runs a command, and ends bad input in one line and exit status 1.

    Args:
        main: the command.
        continues: whether it goes on where it was stopped; told to who stops it.
    """

    def guarded(arguments: Sequence[str]) -> None:
        if len(arguments) > 1:
            fail(f"unexpected argument {arguments[1]!r}; flags start with --, see --help")
        # JAX tells at INFO which accelerators it did not find.
        logging.set_verbosity(logging.WARNING)
        signals.handle_signals()
        try:
            main()
        except (signals.Terminated, KeyboardInterrupt):
            aim = "to continue" if continues else "from the start"
            print(f"stopped; run the same command again {aim}", file=sys.stderr)
            sys.exit(signals.exit_status())
        except UserError as error:
            fail(str(error))
        except OSError as error:
            if error.errno not in _EXPLAINED:
                raise
            fail(f"{error.filename or 'a file'}: {error.strerror}; {_EXPLAINED[error.errno]}")

    app.run(guarded, flags_parser=_parse_flags)


def fail(message: str) -> NoReturn:
    """Ends the command with one line on standard error and exit status 1."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(1)


def use_cpu_cores(at_most: int) -> None:
    """Gives JAX one CPU device per core, up to a number; call it before anything is computed.

    It changes nothing where JAX finds an accelerator.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", max(1, min(cores or 1, at_most)))


def joined_share(workdir: Path) -> Share:
    """Returns the share of the work that the flags give this process, once all have met."""
    launch = (COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
    return join(*launch, workdir=workdir, waiting=_say_that_it_waits)


def _say_that_it_waits() -> None:
    print("waiting for the other processes to start", file=sys.stderr)


def cache_folder() -> Path | str:
    """Returns the folder that --cache_dir names, or the address of a bucket."""
    given = CACHE_DIR.value
    return given if is_remote(given) else folder("cache_dir", given)


def needed_folder(flag: flags.FlagHolder) -> Path:
    """Returns the folder that a flag names, which must be given; see `folder`."""
    if not flag.value:
        raise UserError(f"no --{flag.name} is given; name a folder")
    return folder(flag.name, flag.value)


def data_folder() -> Path | None:
    """Returns the folder that --data_dir names; None for TFDS's own."""
    return folder("data_dir", DATA_DIR.value) if DATA_DIR.value else None


def folder(flag: str, path: str) -> Path:
    """Returns the folder that a flag names, with ~ for a home; it need not exist yet.

    Raises:
        UserError: the path is empty, is something else than a folder, or names an unknown home.
    """
    found = expanded(flag, path)
    if not path or (found.exists() and not found.is_dir()):
        raise UserError(f"--{flag}={path} is not a folder; give a folder")
    return found


def needed_file(flag: flags.FlagHolder) -> Path:
    """Returns the file that a flag names, with ~ for a home; it must be given and be there.

    Raises:
        UserError: it is not given, there is no such file, or the path names an unknown home.
    """
    if not flag.value:
        raise UserError(f"no --{flag.name} is given; name a file")
    file = expanded(flag.name, flag.value)
    if file.is_dir() or not file.exists():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"--{flag.name}={file} {found}; give a file")
    return file


def whole_numbers(flag: flags.FlagHolder) -> tuple[int, ...]:
    """Returns the items of a flag that lists whole numbers.

    Raises:
        UserError: one of them is something else.
    """
    return _items(flag, int, "whole numbers")


def numbers(flag: flags.FlagHolder) -> tuple[float, ...]:
    """Returns the items of a flag that lists numbers; see `whole_numbers`."""
    found = _items(flag, float, "numbers")
    if not all(map(math.isfinite, found)):
        raise UserError(f"--{flag.name}={','.join(flag.value)}: allowed are finite numbers")
    return found


def _items(flag: flags.FlagHolder, kind: type, what: str) -> tuple:
    try:
        return tuple(kind(value) for value in flag.value)
    except ValueError:
        given = ",".join(flag.value)
        raise UserError(f"--{flag.name}={given}: expected {what} separated by commas") from None


def next_seed(seed: int) -> int:
    """Returns another seed: the next one, and 0 after the last that --seed allows."""
    return (seed + 1) % (MOST_SEED + 1)


def limits(values: Sequence[str]) -> dict[str, int]:
    """Returns part -> most images, from the items of --max_images."""
    try:
        pairs = [(name.strip(), int(count)) for name, count in (v.split("=") for v in values)]
        limits = dict(pairs)
        if len(limits) < len(pairs):
            raise ValueError("a part is given twice")
        return limits
    except ValueError:
        given = ",".join(values)
        raise UserError(
            f"--max_images={given}: expected part=count, each part once, separated by commas, "
            "as in target=3000,test=1000"
        ) from None


_EXPLAINED = {
    errno.ENOSPC: "free some disk space and run the same command again to continue",
    errno.EDQUOT: "free some of your disk quota and run the same command again to continue",
    errno.EACCES: "give a folder that you may write to",
    errno.EPERM: "give a folder that you may write to",
    errno.EROFS: "give a folder that you may write to",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a folder",
}


def _check_finite() -> None:
    """No flag of any command means anything by NaN or infinity, which pass absl's bounds."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        is_float = isinstance(flag.parser, flags.FloatParser)
        if is_float and flag.value is not None and not math.isfinite(flag.value):
            fail(f"--{name}={flag.value}: allowed are finite numbers; see --help")


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    try:
        left = flags.FLAGS(list(arguments))
        _check_finite()
        return left
    except flags.Error as error:
        # absl begins some messages with a heading of its own.
        fail(f"{str(error).removeprefix('ERROR:: ')}; see --help")
    except OSError as error:  # a flag file that cannot be read
        fail(f"{error.filename}: {error.strerror}; check --flagfile")
    except UnicodeDecodeError:
        fail("the flag file is not text; check --flagfile")
    except ValueError as error:  # absl's own where a switch such as --nolabelled gets a value
        fail(f"{error}; see --help")
