"""What every command needs around its job: flags in common, what they name, and the devices."""

import dataclasses
import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.running import run as run
from privynet_jax import Parts, PretrainedWeights, Schedule, UserError, load_parts, load_weights
from privynet_jax.characterisation.config import MOST_SEED, Config
from privynet_jax.deployment.trust.keys import PrivateKey, read_private
from privynet_jax.deployment.trust.signatures import Trust, read_trust
from privynet_jax.images.pixels.reading import Reading, window_of
from privynet_jax.planning.lengths import TRAINING as USUAL_TRAINING
from privynet_jax.planning.plan import Plan
from privynet_jax.platform import files
from privynet_jax.platform.devices import usable_cores, use_cpu_devices
from privynet_jax.platform.files import expanded, is_remote
from privynet_jax.results.latencies import Latencies, read_latencies

# What a setting is -> how its flag is defined.
_NUMBERS = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
_LISTS = (tuple[int, ...], tuple[str, ...], Mapping[str, int])
# Part of a schedule, which is described in some words -> help of its flag, kind and least value.
_SCHEDULE: Mapping[str, tuple[str, type, float]] = {
    "steps": ("Mini-batches for {}.", int, 1),
    "batch_size": ("Examples per mini-batch for {}.", int, 1),
    "learning_rate": ("Peak of the learning rate of {}.", float, 0.0),
}


_FIELDS = [field for field in dataclasses.fields(Config) if "told" in field.metadata]
_KINDS = typing.get_type_hints(Config)


def _settings() -> dict[str, dict[str, Any]]:
    """Returns flag -> what it is, in the order of `Config`'s fields; a schedule has three flags."""
    found, usual = {}, Config(Path())
    for name, told in ((field.name, field.metadata) for field in _FIELDS):
        default = None if name == "workdir" else getattr(usual, name)
        if _KINDS[name] is not Schedule:
            found[name] = {"kind": _KINDS[name], "default": default, **told}
            continue
        for part, (words, kind, least) in _SCHEDULE.items():
            about = {"told": words.format(told["told"]), "kind": kind, "least": least}
            found[f"{name}_{part}"] = {"default": getattr(default, part), **about}
    return found


_SETTINGS = _settings()
_DEFINED: dict[str, flags.FlagHolder] = {}


def setting(flag: str, **others: Any) -> flags.FlagHolder:
    """Defines the flag of a setting; `others`, "default" or "told", are not as the field says."""
    about = _SETTINGS[flag] | others
    kind, default, told = about["kind"], about["default"], about["told"]
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
            setting(flag)
    return list(_SETTINGS)


def config_of_flags() -> Config:
    """Returns the `Config` that the flags of `define_settings` describe."""
    given: dict[str, Any] = {}
    for name in (field.name for field in _FIELDS):
        if _KINDS[name] is Schedule:
            value = Schedule(**{part: _DEFINED[f"{name}_{part}"].value for part in _SCHEDULE})
        else:
            value = _READERS.get(_KINDS[name], operator.attrgetter("value"))(_DEFINED[name])
        if value is not None:
            given[name] = value
    return Config(**given)


# A flag of more than one command is defined here, because two commands may not define it both.
CACHE_DIR, WORKDIR, DATA_DIR = map(setting, ("cache_dir", "workdir", "data_dir"))
RELEASE = flags.DEFINE_string("release", None, "Release of experiments.extract: folder or tar.")
REVOKED = flags.DEFINE_list("revoked", [], "Files of experiments.revoke: what to leave out.")
PACKAGE = flags.DEFINE_string("package", None, "Package that experiments.export_local wrote.")
IMAGES = flags.DEFINE_string("images", None, "Pictures, as in folder:PATH.")
OUT = flags.DEFINE_string("out", None, "What to write; see the command's own help.")
SEED, SKIP_UNREADABLE, SIXTEEN_BIT_MAX, FIT, DICOM_WINDOW = map(
    setting, ("seed", "skip_unreadable", "sixteen_bit_max", "fit", "dicom_window")
)
MAX_IMAGES, ATTACKERS = map(setting, ("max_images", "attackers"))
flags.DEFINE_alias("trained_attackers", "attackers")  # as earlier flag files call it
ATTACKED_IMAGES = flags.DEFINE_integer(
    "attacked_images",
    64,
    "Images, over classes, that slow attackers attack; 0: all, and of experiments.plan none.",
    0,
)
TRAINING = flags.DEFINE_float(
    "training",
    USUAL_TRAINING,
    "Times the characterisation's steps that is trained anew. Attackers of plans train for 1,000 "
    "steps of 32 pictures at least for each of these times.",
    0.1,
    1000.0,
)
CHECKPOINT_MINUTES = setting("checkpoint_minutes")
WEIGHTS_HELP = _SETTINGS["weights"]["told"]
_TOLD = f"{WEIGHTS_HELP} Default: embedded, or where a plan had them from."
WEIGHTS = setting("weights", default=None, told=_TOLD)
LATENCY = flags.DEFINE_string(
    "latency", None, "The latency.json of a device, in place of measuring on this machine."
)
MAX_PSNR_DB = flags.DEFINE_float("max_psnr_db", None, "Most privacy loss as PSNR, in dB.")
PLAN = flags.DEFINE_string("plan", None, "The plan.json that experiments.plan wrote.")
KEY = flags.DEFINE_string("key", None, "Your private key, of experiments.keys; it signs.")
TRUSTED = flags.DEFINE_list(
    "trusted",
    [],
    "Public keys, or folders of them, of whose work is taken; KIND:FILE of one kind.",
)
UNSIGNED = flags.DEFINE_boolean("unsigned", False, "Take what nobody signed, too.")
flags.disclaim_key_flags()  # what is declared below is its caller's


def key_flags(names: str) -> None:
    """Gives a command flags of this module, no others; names with spaces between.

    A command comes here before it defines flags of its own: a notebook may load it once more.
    """
    command = inspect.currentframe().f_back.f_globals["__name__"]
    for flag in flags.FLAGS.get_flags_for_module(command):
        flag.allow_override = True
    for name in names.split():
        flags.declare_key_flag(name)
        if name == "attackers":
            flags.declare_key_flag("trained_attackers")


def use_cpu_cores(at_most: int | None = None, *, alone: bool = False) -> None:
    """Gives JAX one CPU device per core, up to a number; call it before anything is computed.

    It changes nothing where JAX finds an accelerator, unless cores are to be used `alone`.
    """
    cores = usable_cores()
    if alone:
        jax.config.update("jax_platforms", "cpu")
    use_cpu_devices(max(1, min(cores, at_most or cores)))


def cache_folder() -> Path | str:
    """Returns the folder that --cache_dir names, or the address of a bucket."""
    given = CACHE_DIR.value
    return given if is_remote(given) else folder("cache_dir", given)


def data_folder() -> Path | str | None:
    """Returns the folder that --data_dir names, or a bucket's address; None for TFDS's own."""
    given = DATA_DIR.value or None
    return given if given is None or is_remote(given) else folder("data_dir", given)


def needed(flag: flags.FlagHolder, advice: str) -> str:
    """Returns what a flag gives, which must be given, as the advice says."""
    if not flag.value:
        raise UserError(f"no --{flag.name} is given; {advice}")
    return flag.value


def needed_folder(flag: flags.FlagHolder) -> Path:
    """Returns the folder that a flag names, which must be given; see `folder`."""
    return folder(flag.name, needed(flag, "name a folder"))


def folder(flag: str, path: str) -> Path:
    """Returns the folder that a flag names, with ~ for a home; it need not exist yet."""
    found = expanded(flag, path)
    if not path or (found.exists() and not found.is_dir()):
        raise UserError(f"--{flag}={path} is not a folder; give a folder")
    return found


def paths(flag: flags.FlagHolder) -> list[Path]:
    """Returns the files or folders that a flag lists, with ~ for a home; they need not exist."""
    given = flag.value.split(",") if isinstance(flag.value, str) else flag.value
    if "" in given:
        raise UserError(f"--{flag.name}={','.join(given)} names nothing between commas")
    return [expanded(flag.name, path) for path in given]


def needed_file(flag: flags.FlagHolder) -> Path:
    """Returns the file that a flag names, with ~ for a home; it must be given and be there."""
    file = expanded(flag.name, needed(flag, "name a file"))
    if file.is_dir() or not file.exists():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"--{flag.name}={file} {found}; give a file")
    return file


def new_file(flag: flags.FlagHolder, advice: str = "give another file") -> Path:
    """Returns the file that a flag names; it must be given, and nothing may be there yet."""
    return files.new_file(flag.name, needed(flag, "name a file"), advice)


def trust() -> Trust:
    """Returns whose packages, releases and classifiers are taken, as the flags say."""
    path = functools.partial(expanded, TRUSTED.name)
    return read_trust(TRUSTED.value, path, unsigned=UNSIGNED.value)


def key() -> PrivateKey | None:
    """Returns the key that --key names, if that is given."""
    return None if KEY.value is None else read_private(needed_file(KEY))


def load_data(dataset: str, **settings: Any) -> Parts:
    """Loads a data set as the flags say, but for what `load_parts` is given here."""
    given = {"seed": SEED.value, "max_images": limits(MAX_IMAGES.value), **decoding(), **settings}
    return load_parts(dataset, data_dir=data_folder(), **given)


def decoding() -> dict[str, Any]:
    """Returns how pictures are decoded, as the flags say."""
    return {"skip_unreadable": SKIP_UNREADABLE.value, "reading": reading()}


def reading() -> Reading:
    """Returns what the flags say of what pictures' files leave open."""
    return Reading(SIXTEEN_BIT_MAX.value, FIT.value, window_of(DICOM_WINDOW.value))


def latencies() -> Latencies | None:
    """Returns what the file of --latency tells, if that is given."""
    return read_latencies(needed_file(LATENCY)) if LATENCY.value else None


def weights_of(plan: Plan) -> PretrainedWeights:
    """Loads the weights of --weights, or those that a plan names."""
    return load_weights(
        WEIGHTS.value or plan.weights,
        cache_dir=folder("cache_dir", CACHE_DIR.value),
        backbone=plan.topology.backbone,
    )


def whole_numbers(flag: flags.FlagHolder) -> tuple[int, ...]:
    """Returns the items of a flag that lists whole numbers."""
    return _items(flag, int, "whole numbers")


def numbers(flag: flags.FlagHolder) -> tuple[float, ...]:
    """Returns the items of a flag that lists finite numbers."""
    found = _items(flag, float, "numbers")
    if not all(map(math.isfinite, found)):
        raise UserError(f"--{flag.name}={','.join(flag.value)}: allowed are finite numbers")
    return found


def _items(flag: flags.FlagHolder, kind: type, what: str) -> tuple:
    try:
        return tuple(map(kind, flag.value))
    except ValueError:
        given = ",".join(flag.value)
        raise UserError(f"--{flag.name}={given}: expected {what} separated by commas") from None


def next_seed(seed: int) -> int:
    """Returns another seed: the next one, and 0 after the last that --seed allows."""
    return (seed + 1) % (MOST_SEED + 1)


def limits(values: Sequence[str]) -> dict[str, int]:
    """Returns part -> most images, from the items of --max_images."""
    try:
        found = {name.strip(): int(count) for name, count in (v.split("=") for v in values)}
    except ValueError:
        found = {}
    if len(found) < len(values):
        expected = "part=count, each part once, separated by commas, as in target=3000,test=1000"
        raise UserError(f"--max_images={','.join(values)}: expected {expected}")
    return found


# What a setting is -> how its flag is read, where not as it is.
_READERS: Mapping[Any, Callable[[flags.FlagHolder], Any]] = {
    Path: needed_folder,
    Path | str | None: lambda flag: data_folder(),
    # As it is given: on a cluster, ~ is each worker's own home.
    Path | str: lambda flag: cache_folder() and flag.value,
    tuple[int, ...]: whole_numbers,
    tuple[str, ...]: lambda flag: tuple(flag.value),
    Mapping[str, int]: lambda flag: limits(flag.value),
}
