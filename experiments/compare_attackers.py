"""Which attacker is worth fearing: all on the same representations, pairs and time.

    python -m experiments.compare_attackers --layers=2,4,7,10 --depths=16 --seconds=60 --out=runs

Every attacker of the project that needs pairs alone, and two plain decoders (`other_networks`),
each with the same budget per topology, compilation left out for all; `tuned` spends a part of it on
choosing among the project's networks and learning rates. Prints a table, and writes attackers.csv
and a picture of reconstructions to --out. Nothing else should run meanwhile: --seconds are
wall-clock seconds. --steps instead of them makes numbers that do not depend on the machine. Run
again, it measures what is missing.

--attackers=linear,"white box from linear" compares with attackers who know the local NN and its
channels as well, and optimise each image; they start from an attacker who had the same budget:

    python -m experiments.compare_attackers --layers=1,2 --depths=64 --out=runs/white_box \
        --attackers=linear,"white box from linear" --max_images=test=100

--attackers=strong,unet,transformer sets other architectures beside the strong one.
"""

import base64
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.comparing.other_networks import BASELINES, CONTENDERS
from experiments.reporting import plots
from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.closed_form import LINEAR, MEAN_IMAGE
from privynet_jax.attacks.registry import TUNED, Training, named_attacks
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.weights.sources import load_weights
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cells import Cell, grid_cells
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.training.models.attackers import CAPACITIES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_SHARED = ("seed", "weights", "cache_dir", "data_dir", "max_images", "skip_unreadable")
for _name in ("out", "attackers", *_SHARED):
    flags.declare_key_flag(_name)
_DATASET = flags.DEFINE_string("dataset", "photo_patches", "photo_patches, folder:PATH or TFDS.")
_LAYERS = flags.DEFINE_list("layers", ["2", "4", "7", "10"], "Numbers of local layers, 1..13.")
_DEPTHS = flags.DEFINE_list("depths", ["16"], "Numbers of released channels.")
_DRAWS = flags.DEFINE_integer("draws", 1, "Random draws of channels per (layers, depth).", 1)
_SECONDS = flags.DEFINE_float("seconds", 60.0, "That each attacker may train, all included.", 0.0)
_STEPS = flags.DEFINE_integer("steps", 0, "Mini-batches instead of --seconds; 0: seconds.", 0)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Examples per mini-batch.", 1)
_RATES = flags.DEFINE_list(
    "rate_factors", ["1"], "Multiples of each network's usual learning rate that compete."
)
_PICTURED = flags.DEFINE_integer("pictured", 8, "Test images in the picture.", 1, 32)

# Attackers that need pairs alone, other architectures apart.
DEFAULT = (MEAN_IMAGE, LINEAR, *CAPACITIES, *BASELINES, TUNED)
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared, and on what; each field is the flag of its name, or follows from some."""

    cells: Sequence[Cell]
    attacks: Sequence[Attack]
    dataset: str
    pictured: int
    seed: int
    deciding: Mapping[str, Any]


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    # Before anything is computed, which drawing channels already does.
    cli.use_cpu_cores(at_most=_BATCH.value)
    compare(_settings(), out)


def compare(settings: Settings, out: Path) -> None:
    """Measures what `out` lacks, and writes the table and the picture there."""
    kept = KeptRows.opened(out, settings.deciding)
    keys = list(itertools.product(settings.cells, settings.attacks))
    known = {_title(*key): kept.read(_title(*key)) for key in keys}
    parts, scenes = _scenes(settings)
    with tqdm(total=len(keys), unit="attack") as bar:
        for _, draws in itertools.groupby(settings.cells, _shape):  # these side by side
            for cells, attack in itertools.product([list(draws)], settings.attacks):
                bar.set_description(f"{cells[0].name} {attack.name}")
                missing = [cell for cell in cells if known[_title(cell, attack)] is None]
                for cell, row in _measured(attack, missing, scenes, settings):
                    known[_title(cell, attack)] = row
                    kept.write(_title(cell, attack), row)
                bar.update(len(cells))
    rows = [known[_title(*key)]["columns"] for key in keys]
    write_atomically(out / "attackers.csv", as_csv(rows))
    estimates = {title.replace(", ", "\n"): _images(row["images"]) for title, row in known.items()}
    originals = as_float(parts.test.images[: settings.pictured])
    write_atomically(out / "attackers.png", _picture(originals, estimates))
    print(aligned(rows))
    print(f"attackers.csv and attackers.png are in {out}.")


def _settings() -> Settings:
    steps, factors = _STEPS.value, _rate_factors()
    budget = Budget(steps, None if steps else _SECONDS.value, _BATCH.value)
    training = Training(budget, factors, {**CAPACITIES, **BASELINES, **CONTENDERS})
    attacks = named_attacks(cli.ATTACKERS.value or DEFAULT, training)
    layers, depths = cli.whole_numbers(_LAYERS), cli.whole_numbers(_DEPTHS)
    cells = grid_cells(layers, depths, _DRAWS.value, cli.SEED.value)
    deciding = ("dataset", "seconds", "steps", "batch_size", "rate_factors", "pictured")
    deciding += ("seed", "weights", "max_images")
    given = {name: flags.FLAGS[name].value for name in deciding}
    return Settings(cells, attacks, _DATASET.value, _PICTURED.value, cli.SEED.value, given)


def _rate_factors() -> tuple[float, ...]:
    factors = cli.numbers(_RATES)
    if not factors or min(factors) <= 0:
        given = ",".join(_RATES.value)
        raise UserError(
            f"--{_RATES.name}={given}: allowed are positive numbers, one or more; 1 stands for a "
            "network's usual rate"
        )
    return factors


def _shape(cell: Cell) -> tuple[int, int]:
    return cell.topology.num_layers, cell.topology.depth


def _title(cell: Cell, attack: Attack) -> str:
    return f"{cell.name}, {attack.name}"


def _scenes(settings: Settings) -> tuple[Parts, dict[Cell, Scenario]]:
    parts, cache_dir = cli.load_data(settings.dataset), cli.cache_folder()
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cache_dir)
    topologies = [cell.topology for cell in settings.cells]
    features = load_features(weights, parts, needed_channels(topologies), cache_dir)
    return parts, {
        cell: Scenario(cell.topology, parts, features[cell.topology.num_layers], weights)
        for cell in settings.cells
    }


def _measured(
    attack: Attack, cells: Sequence[Cell], scenes: Mapping[Cell, Scenario], settings: Settings
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yields for each cell its row's columns, and the estimates of the pictured images."""
    if not cells:
        return
    every = np.arange(len(scenes[cells[0]].parts.test))
    protocol = Protocol(None, None, [attack], every[: settings.pictured], attacked=every)
    for found in measure(cells, [scenes[cell] for cell in cells], protocol, settings.seed):
        images = found.examples[attack.name]
        text = base64.b64encode(images.tobytes()).decode()
        kept = {"columns": _columns(found, attack.name), "images": [list(images.shape), text]}
        yield found.cell, kept


def _columns(found: Measurement, attacker: str) -> Row:
    quality = found.attacks[attacker]["test"]
    psnr = summarise(quality["psnr_db"])
    return {
        "layers": found.cell.topology.num_layers,
        "depth": found.cell.topology.depth,
        "draw": found.cell.draw,
        "attacker": attacker,
        "knowledge": found.reports[attacker]["knowledge"],
        "psnr_db": psnr.mean,
        "p95_db": psnr.p95,
        "ssim": summarise(quality["ssim"]).mean,
        **found.training_columns(attacker),
        # With what the budget does not count: compilation, linear start, reconstruction.
        "seconds_in_all": found.seconds,
    }


def _images(kept: tuple[Sequence[int], str]) -> np.ndarray:
    """What `_measured` wrote as text, float32 [K, H, W, 3]."""
    shape, text = kept
    return as_float(np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape))


def _picture(originals: np.ndarray, estimates: Mapping[str, np.ndarray]) -> bytes:
    """Rows of reconstructions below the originals, each with its PSNR."""
    rows, count = {"original": originals, **estimates}, len(originals)
    figure, grid = plt.subplots(
        len(rows), count, figsize=(1.6 + count, 1.25 * len(rows)), squeeze=False
    )
    for axes, (title, images) in zip(grid, rows.items(), strict=True):
        quality = np.asarray(psnr_db(images, originals))
        for panel, image, db in zip(axes, images, quality, strict=True):
            panel.imshow(image)
            panel.set(xticks=[], yticks=[])
            panel.set_title("" if title == "original" else f"{db:.1f} dB", size=7, pad=2)
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center", size=8)
    return plots.as_png(figure)


if __name__ == "__main__":
    cli.run(main)
