"""Which attacker is worth fearing: all on the same representations, pairs and time.

    python -m experiments.compare_attackers --layers=2,4,7,10 --depths=16 --seconds=60 --out=runs

Every attacker of the project that needs pairs alone, and two plain decoders (`baselines`), each
with the same budget per topology, compilation left out for all; `tuned` spends a part of it on
choosing among the project's networks and learning rates. Prints a table, and writes it and a
picture of reconstructions to --out. Nothing else should run meanwhile: --seconds are wall-clock
seconds. --steps instead of them makes numbers that do not depend on the machine.

--attackers=linear,"white box from linear" compares with attackers who know the local NN and its
channels as well, and optimise each image; they start from an attacker who had the same budget:

    python -m experiments.compare_attackers --layers=1,2 --depths=64 --out=runs/white_box \
        --attackers=linear,"white box from linear" --max_images=test=100

--attackers=strong,unet,transformer sets other architectures (`contenders`) beside the strong one.
"""

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.comparing.attackers import (
    fitted_on,
    named,
    needs_pairs_alone,
    project_attackers,
    training_columns,
)
from experiments.comparing.baselines import baselines
from experiments.comparing.contenders import contenders
from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.scenario import Scenario, make_scenario, measure
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.weights.sources import load_weights
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cells import Cell, grid_cells, training_key
from privynet_jax.results.text_tables import aligned, as_csv

matplotlib.use("Agg")
from matplotlib import pyplot as plt

for _shared in ("out", "seed", "weights", "cache_dir", "data_dir", "max_images", "skip_unreadable"):
    flags.declare_key_flag(_shared)
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
_ATTACKERS = flags.DEFINE_list(
    "attackers", [], "Names of those that are compared; default: all that need pairs alone."
)
_PICTURED = flags.DEFINE_integer("pictured", 8, "Test images in the picture.", 1, 32)

Row = Mapping[str, Any]


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    # Before anything is computed, which drawing channels already does.
    cli.use_cpu_cores(at_most=_BATCH.value)
    budget = Budget(_STEPS.value, None if _STEPS.value else _SECONDS.value, _BATCH.value)
    attacks = _attacks(budget, _rate_factors())
    layers, depths = cli.whole_numbers(_LAYERS), cli.whole_numbers(_DEPTHS)
    cells = grid_cells(layers, depths, _DRAWS.value, cli.SEED.value)
    scenes = _scenarios(cells)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    shown: dict[str, dict[str, np.ndarray]] = {}
    with tqdm(total=len(cells) * len(attacks), unit="attack") as bar:
        for cell, scene in zip(cells, scenes, strict=True):
            for attack in attacks:
                bar.set_description(f"{cell.name} {attack.name}")
                row, estimates = _attacked(attack, cell, scene)
                rows.append(row)
                shown.setdefault(cell.name, {})[attack.name] = estimates
                # After each, so that what is done is kept.
                write_atomically(out / "attackers.csv", as_csv(rows))
                bar.update()
    originals = scenes[0].parts.test.images[: _PICTURED.value]
    write_atomically(out / "attackers.png", _picture(originals, shown))
    print(aligned(rows))
    print(f"attackers.csv and attackers.png are in {out}.")


def _rate_factors() -> tuple[float, ...]:
    factors = cli.numbers(_RATES)
    if not factors or min(factors) <= 0:
        given = ",".join(_RATES.value)
        raise UserError(
            f"--{_RATES.name}={given}: allowed are positive numbers, one or more; 1 stands for a "
            "network's usual rate"
        )
    return factors


def _attacks(budget: Budget, rate_factors: tuple[float, ...]) -> list[Attack]:
    ours = project_attackers(budget, rate_factors)
    compared = [ours[0], *baselines(budget, rate_factors), *ours[1:]]
    usual = [attack.name for attack in compared if needs_pairs_alone(attack)]
    allowed = [*compared, *contenders(budget, rate_factors)]
    return named(_ATTACKERS.value or usual, allowed, _ATTACKERS.name)


def _scenarios(cells: Sequence[Cell]) -> list[Scenario]:
    parts = cli.load_data(_DATASET.value)
    cache_dir = cli.folder("cache_dir", cli.CACHE_DIR.value)
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cache_dir)
    union = needed_channels([cell.topology for cell in cells])
    features = load_features(weights, parts, union, cache_dir)
    return [
        make_scenario(
            weights, parts, cell.topology, cache_dir, features=features[cell.topology.num_layers]
        )
        for cell in cells
    ]


def _attacked(attack: Attack, cell: Cell, scene: Scenario) -> tuple[Row, np.ndarray]:
    """Returns a row of the table, and estimates of the pictured images."""
    begun = time.perf_counter()
    key = training_key(cell, cli.SEED.value)
    fitted, knowledge = fitted_on(scene, attack, key)
    seconds = time.perf_counter() - begun
    quality = measure(fitted, scene)
    row = {
        "layers": cell.topology.num_layers,
        "depth": cell.topology.depth,
        "draw": cell.draw,
        "attacker": attack.name,
        "knowledge": knowledge,
        "psnr_db": float(np.mean(quality["psnr_db"])),
        "p95_db": float(np.percentile(quality["psnr_db"], 95)),
        "ssim": float(np.mean(quality["ssim"])),
        **training_columns(fitted.report),
        # Compilation and the linear start included, which the budget does not count.
        "seconds_in_all": seconds,
    }
    return row, fitted.reconstruct(scene.representations("test", slice(_PICTURED.value)))


def _picture(originals: np.ndarray, shown: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Rows of reconstructions per cell and attacker below the originals, each with its PSNR."""
    truth = as_float(originals)
    rows = [("original", truth)]
    for cell, attackers in shown.items():
        rows += [(f"{cell}\n{attacker}", images) for attacker, images in attackers.items()]
    count = len(originals)
    figure, grid = plt.subplots(
        len(rows), count, figsize=(1.6 + count, 1.25 * len(rows)), squeeze=False
    )
    for axes, (title, images) in zip(grid, rows, strict=True):
        quality = np.asarray(psnr_db(np.float32(images), truth))
        for panel, image, db in zip(axes, images, quality, strict=True):
            panel.imshow(image)
            panel.set(xticks=[], yticks=[])
            panel.set_title("" if title == "original" else f"{db:.1f} dB", size=7, pad=2)
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center", size=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    cli.run(main, continues=False)
