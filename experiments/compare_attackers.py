r"""Which attacker is worth fearing: all on the same representations, pairs and time.

    python -m experiments.compare_attackers --layers=2,4,7,10 --depths=16 --seconds=60 --out=runs

Every attacker of the project that needs pairs alone, and two plain decoders (`other_networks`),
each with the same budget per topology, compilation left out for all; `tuned` spends a part of it on
choosing. Prints a table, and writes attackers.csv and a picture of reconstructions to --out.
Nothing else should run meanwhile: --seconds are wall-clock seconds. --steps instead of them makes
numbers that do not depend on the machine. Run again, it measures what is missing.

--attackers=linear,"white box from linear" compares with attackers who know the local NN and its
channels as well, and optimise each image; they start from an attacker who had the same budget:

    python -m experiments.compare_attackers --layers=1,2 --depths=64 --out=runs/white_box \
        --attackers=linear,"white box from linear" --max_images=test=100

--attackers=strong,unet,transformer sets other architectures beside the strong one, and
--image_size=96 compares on larger images.
"""

import base64
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import SHARED, Ground, deciding, filled, kept_rows, load_ground
from experiments.comparing.other_networks import BASELINES, CONTENDERS
from experiments.reporting import plots
from privynet_jax import Budget, Protocol
from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.closed_form import LINEAR, MEAN_IMAGE
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import TUNED, Training, named_attacks
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.characterisation.config import check_side
from privynet_jax.characterisation.measure import outcomes
from privynet_jax.errors import DivergedError, UserError, everything_first
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import Bar
from privynet_jax.results.cells import Cell, grid_cells
from privynet_jax.results.statistics import bootstrap, mean_of, p95_of
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.training.models.attackers import CAPACITIES

cli.key_flags(SHARED)
_DATASET, _LAYERS, _SIZE = map(cli.setting, ("dataset", "layers", "image_size"))
_DEPTHS, _DRAWS = cli.setting("depths", default=(16,)), cli.setting("draws", default=1)
_SECONDS = flags.DEFINE_float("seconds", 60.0, "That each attacker may train, all included.", 0.0)
_STEPS = flags.DEFINE_integer("steps", 0, "Mini-batches instead of --seconds; 0: seconds.", 0)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Examples per mini-batch.", 1)
_RATES = flags.DEFINE_list(
    "rate_factors", ["1"], "Multiples of each network's usual learning rate that compete."
)
_PICTURED = flags.DEFINE_integer("pictured", 8, "Test images in the picture.", 1, 32)

# Attackers that need pairs alone, other architectures apart.
_DEFAULT = (MEAN_IMAGE, LINEAR, *CAPACITIES, *BASELINES, TUNED)


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    # Before anything is computed, which drawing channels already does.
    cli.use_cpu_cores(at_most=_BATCH.value)
    attacks = _attacks()
    layers, depths = cli.whole_numbers(_LAYERS), cli.whole_numbers(_DEPTHS)
    cells = grid_cells(layers, depths, _DRAWS.value, cli.SEED.value)
    check_side(_SIZE.value, layers)
    given = ("dataset", "image_size", "seconds", "steps", "batch_size", "rate_factors", "pictured")
    needed = needed_channels([cell.topology for cell in cells])
    ground = load_ground(_DATASET.value, needed, image_size=_SIZE.value)
    kept = kept_rows(out, deciding(*given) | ground.data, "attackers", _DATASET.value)
    found = {}
    bar = Bar(total=len(cells) * len(attacks), unit="attack")
    with everything_first() as postponed, bar:
        for layer, depth, attack in itertools.product(layers, depths, attacks):
            # Draws are attacked side by side.
            group = grid_cells((layer,), (depth,), _DRAWS.value, cli.SEED.value)
            bar.set_description(f"{group[0].name} {attack.name}")
            titled = {f"{cell.name}, {attack.name}": cell for cell in group}
            with postponed():
                rows = filled(kept, titled, functools.partial(_measured, attack, ground))
                found |= zip(titled, rows, strict=True)
            bar.update(len(group))
    names = [f"{cell.name}, {attack.name}" for cell, attack in itertools.product(cells, attacks)]
    table = [found[name]["columns"] for name in names]
    write_atomically(out / "attackers.csv", as_csv(table))
    estimates = {name.replace(", ", "\n", 1): _images(found[name]["images"]) for name in names}
    originals = ground.parts.test.images[: _PICTURED.value]
    picture = plots.image_rows(originals, estimates, "Test images as rebuilt, and PSNR in dB")
    write_atomically(out / "attackers.png", picture)
    print(aligned(table))
    print(f"attackers.csv and attackers.png are in {out}.")


def _attacks() -> list[Attack]:
    steps = _STEPS.value
    budget = Budget(steps, None if steps else _SECONDS.value, _BATCH.value)
    training = Training(budget, cli.numbers(_RATES), {**CAPACITIES, **BASELINES, **CONTENDERS})
    attacks = named_attacks(cli.ATTACKERS.value or _DEFAULT, training)
    if not steps and PUBLIC in {attack.name for attack in attacks}:
        raise UserError(
            f"--attackers names {PUBLIC}, which makes its pairs before it trains, and so takes a "
            "number of steps; give --steps in place of --seconds"
        )
    return attacks


def _measured(attack: Attack, ground: Ground, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For each cell its row's columns, and the estimates of the pictured images."""
    every = np.arange(len(ground.parts.test))
    protocol = Protocol(None, None, [attack], every[: _PICTURED.value], attacked=every)
    scenes = [ground.scene(cell.topology) for cell in cells]
    rows = []
    for found in outcomes(cells, scenes, protocol, cli.SEED.value):
        if isinstance(found, DivergedError):
            rows.append(found)
            continue
        images, quality = found.examples[attack.name], found.attacks[attack.name]["test"]
        text, sources = base64.b64encode(images.tobytes()).decode(), ground.parts.test.clusters()
        mean, p95 = (bootstrap(quality["psnr_db"], of, sources) for of in (mean_of, p95_of))
        columns = {
            "layers": found.cell.topology.num_layers,
            "depth": found.cell.topology.depth,
            "draw": found.cell.draw,
            "attacker": attack.name,
            "knowledge": found.reports[attack.name]["knowledge"],
            **mean.columns("psnr_db"),
            **p95.columns("p95_db"),
            **{name: float(quality[name].mean()) for name in ("ssim", "haarpsi", "identified")},
            **found.training_columns(attack.name),
            # With what the budget does not count: compilation, linear start, reconstruction.
            "seconds_in_all": found.seconds,
        }
        rows.append({"columns": columns, "images": [list(images.shape), text]})
    return rows


def _images(kept: tuple[Sequence[int], str]) -> np.ndarray:
    """What `_measured` wrote as text, uint8 [K, H, W, 3]."""
    shape, text = kept
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)


if __name__ == "__main__":
    cli.run(main, continues=True)
