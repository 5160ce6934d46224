"""Limits, numbers and options in words, and as flags that can be typed. No JAX here.

named(option)  # "7 layers (conv3_3), 32 channels"
flags_of(decision, ["psnr_db"])  # "--max_psnr_db=22"
"""

from collections.abc import Mapping, Sequence

from privynet_jax.backbone.topology import DIRECT
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.planning.options import Option
from privynet_jax.planning.planner import DIGITS, Decision, Shortfall
from privynet_jax.results.statistics import Interval

# Limit -> what it is called, and its unit.
WORDS: Mapping[str, tuple[str, str]] = {
    "psnr_db": ("privacy loss in PSNR", "dB"),
    "ssim": ("privacy loss in SSIM", ""),
    "local_mmacs": ("local computation", "MMAC per image"),
    "storage_mib": ("local storage", "MiB"),
    "release_kib": ("released data", "KiB per image"),
    "latency_ms": ("latency", "ms per image"),
    "epsilon": ("epsilon", "of one release's local differential privacy"),
}
OF_IMAGES = {
    "mean": "the mean over images",
    "median": "the median over images",
    "p95": "the 95th percentile over images",
    "p99": "the 99th percentile over images",
}


def named(option: Option) -> str:
    """Returns an option in words."""
    layers, channels = counted(option.num_layers, "layer"), counted(option.depth, "channel")
    also = "" if option.mechanism == NONE else f", {option.mechanism}"
    return f"{layers} ({option.layer}), {channels}{also}"


def counted(number: int, word: str) -> str:
    """Returns a number of things, as in 1 layer or 2 layers."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def kind_of_cells(option: Option) -> str:
    """Returns what its cells are: draws of direct have the same channels."""
    return "training" if option.selection == DIRECT else "draw"


def flags_of(decision: Decision, limits: Sequence[str], between: str = "") -> str:
    """Returns some of its limits as flags."""
    return between.join(typed(limit, getattr(decision.limits, limit)) for limit in limits)


def proposed(shortfall: Shortfall) -> str:
    """Returns the flag that would suffice, and what was given."""
    was = typed(shortfall.limit, shortfall.value).partition("=")[2]
    return f"{typed(shortfall.limit, shortfall.needed)} (was {was})"


def typed(limit: str, value: float) -> str:
    """Returns the flag of a limit, rounded up to its digits; one that was given is as it was."""
    rounded = round(value, DIGITS[limit])
    return f"--max_{limit}={value if rounded < value else rounded:.12g}"


def with_unit(limit: str, value: float) -> str:
    """Returns a value of a limit, or a difference of two."""
    return f"{value:.{DIGITS[limit]}f} {WORDS[limit][1]}".strip()


def with_ends(interval: Interval, factor: float, digits: int) -> str:
    """Returns an interval, times a factor: its value, and in brackets from where to where."""
    ends = (interval.value, interval.low, interval.high)
    return "{} ({} to {})".format(*(f"{factor * end:.{digits}f}" for end in ends))


def joined(words: Sequence[str], conjunction: str = "and") -> str:
    """Returns words, at least one, with commas between, and a conjunction before the last."""
    *rest, last = words
    return f"{', '.join(rest)} {conjunction} {last}" if rest else last
