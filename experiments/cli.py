"""What every command needs around its job: the devices, flags in common and errors in one line."""

import collections
import dataclasses
import errno
import math
import operator
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from absl import app, flags, logging

from privynet_jax import Parts, Schedule, UserError, load_parts
from privynet_jax.characterisation.config import MOST_SEED, Config
from privynet_jax.platform import signals
from privynet_jax.platform.files import expanded, is_remote
from privynet_jax.platform.processes import Share, join


class _Setting(NamedTuple):
    """What a flag sets: a field of `Config`, or a part of a field that is a schedule."""

    field: str
    part: str
    kind: Any
    about: Mapping[str, Any]


# What a setting is -> how its flag is defined.
_NUMBERS = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
_LISTS = (tuple[int, ...], tuple[str, ...], Mapping[str, int])
# Part of a schedule, which is described in some words -> help of its flag, and the least value.
_SCHEDULE: Mapping[str, tuple[str, float]] = {
    "steps": ("Mini-batches for {}.", 1),
    "batch_size": ("Examples per mini-batch for {}.", 1),
    "learning_rate": ("Peak of the learning rate of {}.", 0.0),
}


def _settings() -> dict[str, _Setting]:
    """Returns flag -> what it sets, in the order of `Config`'s fields."""
    found: dict[str, _Setting] = {}
    kinds, parts = (typing.get_type_hints(kind) for kind in (Config, Schedule))
    usual = {**dataclasses.asdict(Config(Path())), "workdir": None}
    for field in (field for field in dataclasses.fields(Config) if "told" in field.metadata):
        name, default, told = field.name, usual[field.name], field.metadata["told"]
        if kinds[name] is not Schedule:
            about = {"default": default, **field.metadata}
            found[about.get("flag", name)] = _Setting(name, "", kinds[name], about)
            continue
        for part, (words, least) in _SCHEDULE.items():
            about = {"default": default[part], "told": words.format(told), "least": least}
            kind = float if parts[part] == float | None else parts[part]
            found[f"{name}_{part}"] = _Setting(name, part, kind, about)
    return found


_SETTINGS = _settings()
_DEFINED: dict[str, flags.FlagHolder] = {}


def _defined(flag: str, **others: Any) -> flags.FlagHolder:
    """Defines the flag of a setting; `others`, "default" or "told", are not as the field says."""
    kind, about = _SETTINGS[flag].kind, {**_SETTINGS[flag].about, **others}
    default, told = about["default"], about["told"]
    if "choices" in about:
        holder = flags.DEFINE_enum(flag, default, about["choices"], told)
    elif kind in _NUMBERS:
        holder = _NUMBERS[kind](flag, default, told, about.get("least"), about.get("most"))
    elif kind is bool:
        holder = flags.DEFINE_boolean(flag, default, told)
    elif kind in _LISTS:
        holder = flags.DEFINE_list(flag, list(map(str, default)), told)
    else:
        holder = flags.DEFINE_string(flag, None if default is None else str(default), told)
    _DEFINED[flag] = holder
    return holder


def define_settings() -> list[str]:
    """Defines a flag for every setting of `Config` that has none yet; returns the names of all."""
    for flag in _SETTINGS:
        if flag not in _DEFINED:
            _defined(flag)
    return list(_SETTINGS)


def config_of_flags() -> Config:
    """Returns the `Config` that the flags of `define_settings` describe.

    Raises:
        UserError: no folder is given, or a value cannot be read.
    """
    given: dict[str, Any] = {}
    schedules: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for flag, setting in _SETTINGS.items():
        value = _READERS.get(setting.kind, operator.attrgetter("value"))(_DEFINED[flag])
        if setting.part:
            schedules[setting.field][setting.part] = value
        elif value is not None:
            given[setting.field] = value
    return Config(**given, **{name: Schedule(**parts) for name, parts in schedules.items()})


# A flag of more than one command is defined here, because two commands may not define it both.
CACHE_DIR, WORKDIR, DATA_DIR = map(_defined, ("cache_dir", "workdir", "data_dir"))
RELEASE = flags.DEFINE_string("release", None, "Release directory that experiments.extract wrote.")
PACKAGE = flags.DEFINE_string("package", None, "Package that experiments.export_local wrote.")
IMAGES = flags.DEFINE_string("images", None, "Pictures, as in folder:PATH.")
OUT = flags.DEFINE_string("out", None, "What to write; see the command's own help.")
SEED, SKIP_UNREADABLE = map(_defined, ("seed", "skip_unreadable"))
MAX_IMAGES, ATTACKERS = map(_defined, ("max_images", "attackers"))
flags.DEFINE_alias("trained_attackers", "attackers")  # as earlier flag files call it
ATTACKED_IMAGES = flags.DEFINE_integer(
    "attacked_images", 64, "Test images, spread over classes, of slow attacks; 0: all.", 0
)
TRAINING = flags.DEFINE_float(
    "training", 2.0, "Times the characterisation's steps that is trained anew.", 0.1, 1000.0
)
CHECKPOINT_MINUTES = _defined("checkpoint_minutes")
WEIGHTS_HELP = _SETTINGS["weights"].about["told"]
WEIGHTS = _defined(
    "weights",
    default=None,
    told=f"{WEIGHTS_HELP} Default: embedded, or where a plan had them from.",
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


def use_cpu_cores(at_most: int | None = None) -> None:
    """Gives JAX one CPU device per core, up to a number; call it before anything is computed.

    It changes nothing where JAX finds an accelerator.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    jax.config.update("jax_num_cpu_devices", max(1, min(cores, at_most or cores)))


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


def load_data(dataset: str, **settings: Any) -> Parts:
    """Loads a data set as the flags say, but for what `load_parts` is given here."""
    given = {
        "data_dir": data_folder(),
        "seed": SEED.value,
        "max_images": limits(MAX_IMAGES.value),
        "skip_unreadable": SKIP_UNREADABLE.value,
    }
    return load_parts(dataset, **{**given, **settings})


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


# What a setting is -> how its flag is read, where not as it is.
_READERS: Mapping[Any, Callable[[flags.FlagHolder], Any]] = {
    Path: needed_folder,
    Path | None: lambda flag: data_folder(),
    Path | str: lambda flag: cache_folder(),
    tuple[int, ...]: whole_numbers,
    tuple[str, ...]: lambda flag: tuple(flag.value),
    Mapping[str, int]: lambda flag: limits(flag.value),
}
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
