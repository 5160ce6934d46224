"""Strong attacks on a finished characterisation: by how much its own attackers fell short.

    python -m experiments.attack --workdir=runs/first
    python -m experiments.attack --workdir=runs/first --attacked_cells=m04_d016_r00 \
        --attack_with=strong --attacked_images=0

A grid can afford short attacks alone. This trains the strongest network of the project, for
--strong_steps, on cells of the grid (the first draw of every layers, depth and selection), and
optimises images for an attacker who has the local NN as well (`white box`, 150 gradients per image,
so only --attacked_images are attacked). --attack_with=tuned spends the same steps on the network
and the learning rate that do best on the attacker's held-out pairs, their choice included. Prints a
table, and writes strong_attacks.csv to the work directory, where `experiments.report` finds it;
`grid_psnr_db` is of the grid's strongest attacker on the same images. The same command again
continues where it was stopped.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.comparing.attackers import fitted_on, named, project_attackers, training_columns
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.scenario import Scenario, measure
from privynet_jax.attacks.tuning import Budget
from privynet_jax.characterisation.reopening import Reopened, reopen
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.risk_tables import RECOGNISABLE_SSIM, AttackedPictures, strongest_values
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import aligned

for _shared in ("workdir", "weights", "cache_dir", "data_dir", "skip_unreadable"):
    flags.declare_key_flag(_shared)
_ATTACKERS = flags.DEFINE_list(
    "attack_with", ["linear", "strong", "white box from strong"], "Names of attackers."
)
_STEPS = flags.DEFINE_integer(
    "strong_steps", None, "Mini-batches of each; default: four times the characterisation's.", 1
)
_CELLS = flags.DEFINE_list(
    "attacked_cells", ["first"], "Names of cells, as in cells/; first: the first draws; or all."
)
_IMAGES = flags.DEFINE_integer(
    "attacked_images", 64, "Test images, spread over classes; 0: all that the grid attacked.", 0
)
STRONG_ATTACKS = "strong_attacks.csv"
_TIMES_AS_LONG = 4
_FIRST, _ALL = "first", "all"

Row = Mapping[str, Any]


def main() -> None:
    workdir = cli.needed_folder(cli.WORKDIR)
    found = reopen(
        workdir,
        weights=cli.WEIGHTS.value or "embedded",
        cache_dir=cli.cache_folder(),
        data_dir=cli.data_folder(),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    budget = _budget(found.settings)
    attacks = named(_ATTACKERS.value, project_attackers(budget), _ATTACKERS.name)
    results = _chosen(found.results)
    kept = KeptRows.opened(
        workdir / "strong_attacks",
        {"steps": budget.steps, "images": _IMAGES.value, "grid": dict(found.settings)},
    )
    known = _kept_rows(found.results, budget, kept)
    rows: list[Row] = []
    with tqdm(total=len(results) * len(attacks), unit="attack") as bar:
        for result in results:
            scene: Scenario | None = None
            for attack in attacks:
                bar.set_description(f"{result.name} {attack.name}")
                title = _title(result, attack)
                if known[title] is None:
                    scene = scene or found.scenario(result)  # only where something is missing
                    known[title] = _attacked(attack, result, scene, found)
                    kept.write(title, known[title])
                    _write_table(found, known)
                rows.append(known[title])
                bar.update()
    _write_table(found, known)
    print(aligned([_shown(row) for row in rows]))
    print(_verdict(rows))
    print(f"{STRONG_ATTACKS} is in {workdir}.")


def _kept_rows(
    results: Sequence[CellResult], budget: Budget, kept: KeptRows
) -> dict[str, Row | None]:
    """All rows of these settings by title, whichever call they are of; None if missing."""
    attacks = project_attackers(budget)
    titles = [_title(result, attack) for result in results for attack in attacks]
    return {title: kept.read(title) for title in titles}


def _write_table(found: Reopened, known: Mapping[str, Row | None]) -> None:
    found.store.write_csv(STRONG_ATTACKS, [row for row in known.values() if row is not None])


def _title(result: CellResult, attack: Attack) -> str:
    return f"{result.name}, {attack.name}"


def _budget(settings: Mapping[str, Any]) -> Budget:
    trained = settings["attacker"]
    return Budget(
        _STEPS.value or _TIMES_AS_LONG * trained["steps"], batch_size=trained["batch_size"]
    )


def _chosen(results: Sequence[CellResult]) -> list[CellResult]:
    """The cells that are named, in the order of the grid."""
    if _CELLS.value == [_FIRST]:
        return [result for result in results if result.draw == 0]
    if _CELLS.value == [_ALL]:
        return list(results)
    known = [result.name for result in results]
    unknown = sorted(set(_CELLS.value) - set(known))
    if len(set(_CELLS.value)) < len(_CELLS.value):
        raise UserError(f"--attacked_cells={','.join(_CELLS.value)}; allowed is each cell once")
    if unknown or not _CELLS.value:
        raise UserError(
            f"--attacked_cells names {', '.join(unknown) or 'nothing'}; allowed are {_FIRST}, "
            f"{_ALL}, or some of {', '.join(known)}"
        )
    return [result for result in results if result.name in _CELLS.value]


def _attacked(attack: Attack, result: CellResult, scene: Scenario, found: Reopened) -> Row:
    """Returns the row of one attacker on one cell."""
    by_grid, images = _grids_own(result, found)
    cell = Cell(result.topology, result.draw, result.selection)
    fitted, knowledge = fitted_on(scene, attack, training_key(cell, found.settings["seed"]))
    quality = measure(fitted, scene, rows=images)
    psnr_db, ssim = summarise(quality["psnr_db"]), summarise(quality["ssim"])
    return {
        **{name: value for name, value in result.identity().items() if name != "channels"},
        "attacker": attack.name,
        "knowledge": knowledge,
        "images": len(images),
        "psnr_db_mean": psnr_db.mean,
        "psnr_db_median": psnr_db.median,
        "psnr_db_p95": psnr_db.p95,
        "psnr_db_p99": psnr_db.p99,
        "psnr_db_max": psnr_db.max,
        "ssim_mean": ssim.mean,
        "ssim_p95": ssim.p95,
        "recognisable": float(np.mean(quality["ssim"] >= RECOGNISABLE_SSIM)),
        "grid_attacker": result.strongest.attacker,
        "grid_psnr_db": float(np.mean(by_grid)),
        **training_columns(fitted.report),
    }


def _grids_own(result: CellResult, found: Reopened) -> tuple[np.ndarray, np.ndarray]:
    """PSNR by the grid's strongest attacker of the images to attack, and which these are."""
    values = strongest_values(result, found.store.load_arrays(result.name))["psnr_db"]
    pictures = AttackedPictures.from_arrays(found.store.load_test_pictures())
    scored = pictures.scored(len(values), found.settings["mode"])
    count = _IMAGES.value or len(scored)
    chosen = np.sort(spread_over_classes(pictures.labels[scored], count))
    return values[chosen], scored[chosen]


def _shown(row: Row) -> Row:
    return {
        "layers": f"{row['num_layers']} {row['layer']}",
        **{name: row[name] for name in ("depth", "selection", "draw", "attacker", "knowledge")},
        "PSNR dB": f"{row['psnr_db_mean']:.1f}",
        "p95": f"{row['psnr_db_p95']:.1f}",
        "max": f"{row['psnr_db_max']:.1f}",
        "SSIM": f"{row['ssim_mean']:.2f}",
        "recognisable %": f"{100 * row['recognisable']:.0f}",
        "grid's dB": f"{row['grid_psnr_db']:.1f}",
        "converged": _converged(row),
    }


def _converged(row: Row) -> str:
    falling = row["falling_percent_per_doubling"]
    return "yes" if row["converged"] else f"falling {falling:.0f} % per doubling"


def _verdict(rows: Sequence[Row]) -> str:
    """Says how far the grid fell short of attackers who know no more than its own."""
    by_cell = collections.defaultdict(list)
    for row in rows:
        if row["knowledge"] == PAIRS:
            place = (row["num_layers"], row["depth"], row["selection"], row["draw"])
            by_cell[place].append(row["psnr_db_mean"] - row["grid_psnr_db"])
    if not by_cell:
        return "No attacker that knows pairs alone was among them."
    gains = {place: max(found) for place, found in by_cell.items()}
    (layers, depth, *_), most = max(gains.items(), key=lambda entry: entry[1])
    beaten = sum(gain > 0 for gain in gains.values())
    return (
        f"With pairs alone, the grid's strongest attacker was beaten in {beaten} of {len(gains)} "
        f"cells; the difference was largest at {layers} layers, {depth} channels: {most:+.1f} dB."
    )


if __name__ == "__main__":
    cli.run(main)
