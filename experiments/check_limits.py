"""Does the limit of an attack hold? Extrapolated, and against ten times the training.

    python -m experiments.check_limits --steps=100 --seed=1 --out=runs/limits

Trains an attacker on every cell of a grid for --steps, extrapolates what ten times as many would
reach (`psnr_db_limit`), trains another for so many, and compares. Prints and writes limits.csv, one
row per cell. Run again, it measures what is missing.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import SHARED, Ground, deciding, filled, kept_rows, load_ground
from privynet_jax import Budget, Protocol
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.characterisation.measure import outcomes
from privynet_jax.errors import DivergedError
from privynet_jax.platform.devices import Spread, execution_for
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import Bar
from privynet_jax.results.cells import Cell, by_layer, grid_cells
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.training.extrapolation import LEAST_STEPS, TIMES
from privynet_jax.training.models.attackers import STRONG

cli.key_flags(SHARED.replace("attackers ", ""))
_DATASET, _LAYERS = map(cli.setting, ("dataset", "layers"))
_DEPTHS, _DRAWS = cli.setting("depths", default=(8, 16, 32)), cli.setting("draws", default=3)
_STEPS = flags.DEFINE_integer(
    "steps", 100, "Mini-batches; ten times as many are tried as well.", LEAST_STEPS
)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Examples per mini-batch.", 1)
# What a limit should be within.
_CLOSE_DB = 0.5


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores()
    layers, depths = cli.whole_numbers(_LAYERS), cli.whole_numbers(_DEPTHS)
    cells = grid_cells(layers, depths, _DRAWS.value, cli.SEED.value)
    settings = deciding("dataset", "depths", "steps", "batch_size")
    ground = load_ground(_DATASET.value, needed_channels([cell.topology for cell in cells]))
    kept = kept_rows(out, settings | ground.data, "limits", _DATASET.value)
    rows, sources = [], ground.parts.test.clusters()
    with Bar(total=len(cells) * (1 + TIMES), unit="training") as bar:
        for _, mine in by_layer(cells):
            size = execution_for(len(mine), _BATCH.value, Spread()).group_size
            for start in range(0, len(mine), size):
                group = mine[start : start + size]
                found = []
                for times in (1, TIMES):
                    titled = {f"{cell.name}, {times}": cell for cell in group}
                    measure = functools.partial(_measured, ground, max(depths), times)
                    found.append(filled(kept, titled, measure))
                    bar.update(times * len(group))
                rows += map(functools.partial(_row, sources), group, *found)
    write_atomically(out / "limits.csv", as_csv(rows))
    print(as_text(rows))
    print(f"limits.csv is in {out}.")


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the findings for people to read."""
    errors = [abs(row["psnr_db_limit"] - row["reached_db"]) for row in rows]
    close, inside = (error <= _CLOSE_DB for error in errors), (row["inside"] for row in rows)
    told = (
        f"Limits are off by {np.mean(errors):.2f} dB on average; {sum(close)} of {len(rows)} by at "
        f"most {_CLOSE_DB} dB, and {sum(inside)} of {len(rows)} intervals hold what was reached."
    )
    return f"{aligned(rows)}\n\n{told}"


def _measured(
    ground: Ground, width: int, times: int, cells: Sequence[Cell]
) -> list[dict[str, Any] | DivergedError]:
    """For each cell what an attacker reached on test images who trained so many times --steps."""
    training = Training(Budget(times * _STEPS.value, batch_size=_BATCH.value))
    every = np.arange(len(ground.parts.test))
    protocol = Protocol(attacks=named_attacks([STRONG], training), attacked=every)
    scenes = [ground.scene(cell.topology, width) for cell in cells]
    return [
        found
        if isinstance(found, DivergedError)
        else {
            "psnr_db": found.attacks[STRONG]["test"]["psnr_db"].tolist(),
            "gain_db": list(found.reports[STRONG]["gain_db"]),
        }
        for found in outcomes(cells, scenes, protocol, cli.SEED.value)
    ]


def _row(
    sources: np.ndarray, cell: Cell, short: Mapping[str, Any], long: Mapping[str, Any]
) -> dict[str, Any]:
    """What was told and what was reached; intervals of the latter are over the images' sources."""
    before, reached = (
        bootstrap(np.array(each["psnr_db"]), mean_of, sources) for each in (short, long)
    )
    value, low, high = (before.value + gain for gain in short["gain_db"])
    return {
        "cell": cell.name,
        "steps": _STEPS.value,
        **before.columns("psnr_db"),
        "psnr_db_limit": value,
        "psnr_db_limit_low": low,
        "psnr_db_limit_high": high,
        **reached.columns("reached_db"),
        "inside": low <= reached.value <= high,
    }


if __name__ == "__main__":
    cli.run(main, continues=True)
