"""Strong attacks on a finished characterisation: by how much its own attackers fell short.

    python -m experiments.attack --workdir=runs/first
    python -m experiments.attack --workdir=runs/first --attacked_cells=m04_d016_r00 \
        --attackers=strong --attacked_images=0

A grid can afford short attacks alone. This trains the strongest network of the project, for
--strong_steps, on cells of the grid (the first draw of every layers, depth and selection), and
optimises images for an attacker who has the local NN as well (`white box`, 150 gradients per image,
so only --attacked_images are attacked). --attackers=tuned spends the same steps on the network and
the learning rate that do best on the attacker's held-out pairs, their choice included. Prints a
table, and writes strong_attacks.csv to the work directory, where `experiments.report` finds it;
`grid_psnr_db` is of the grid's strongest attacker on the same images. The same command again
continues where it was stopped.
"""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.registry import Training, attackers, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.characterisation.reopening import Reopened, reopen
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform import signals
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.risk_tables import RECOGNISABLE_SSIM, AttackedPictures, strongest_values
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import aligned
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.session import session

for _shared in (
    *("workdir", "weights", "cache_dir", "data_dir", "skip_unreadable"),
    *("attackers", "attacked_images", "checkpoint_minutes"),
):
    flags.declare_key_flag(_shared)
_STEPS = flags.DEFINE_integer(
    "strong_steps", None, "Mini-batches of each; default: four times the characterisation's.", 1
)
_CELLS = flags.DEFINE_list(
    "attacked_cells", ["first"], "Names of cells, as in cells/; first: the first draws; or all."
)
STRONG_ATTACKS = "strong_attacks.csv"
_USUAL = ("linear", "strong", "white box from strong")
_TIMES_AS_LONG = 4
_FIRST, _ALL = "first", "all"

Row = Mapping[str, Any]


def main() -> None:
    cli.use_cpu_cores()
    found = reopen(
        cli.needed_folder(cli.WORKDIR),
        weights=cli.WEIGHTS.value or "embedded",
        cache_dir=cli.cache_folder(),
        data_dir=cli.data_folder(),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    training = Training(_budget(found.settings))
    attacks = named_attacks(cli.ATTACKERS.value or _USUAL, training)
    results = _chosen(found.results)
    known = _Rows(found, training)
    with progress_bar(len(results) * len(attacks), "attacking", "attacks") as advance:
        for _, of_layer in itertools.groupby(results, key=lambda result: result.num_layers):
            cells = list(of_layer)
            for attack in attacks:
                missing = [result for result in cells if not known.of(result, attack)]
                advance(len(cells) - len(missing))
                if missing:
                    with session(progress=advance):
                        known.add(attack, _attacked(attack, missing, found, training))
    rows = [known.of(result, attack) for result in results for attack in attacks]
    print(aligned([_shown(row) for row in rows]))
    print(_verdict(rows))
    print(f"{STRONG_ATTACKS} is in {found.store.workdir}.")


class _Rows:
    """All rows of the same settings, whichever call they are of; None where one is missing."""

    def __init__(self, found: Reopened, training: Training) -> None:
        images, steps = cli.ATTACKED_IMAGES.value, training.budget.steps
        settings = {"steps": steps, "images": images, "grid": dict(found.settings)}
        self._store, folder = found.store, found.store.workdir / "strong_attacks"
        self._kept = KeptRows.opened(folder, settings)
        names = [result.name for result in found.results]
        titles = [f"{name}, {attacker}" for name in names for attacker in attackers(training)]
        self._rows = {title: self._kept.read(title) for title in titles}

    def of(self, result: CellResult, attack: Attack) -> Row | None:
        return self._rows[f"{result.name}, {attack.name}"]

    def add(self, attack: Attack, rows: Mapping[str, Row]) -> None:
        """Keeps rows by name of their cell, and writes the table."""
        for name, row in rows.items():
            self._rows[f"{name}, {attack.name}"] = row
            self._kept.write(f"{name}, {attack.name}", row)
        self._store.write_csv(STRONG_ATTACKS, [row for row in self._rows.values() if row])


def _budget(settings: Mapping[str, Any]) -> Budget:
    trained = settings["attacker"]
    steps = _STEPS.value or _TIMES_AS_LONG * trained["steps"]
    return Budget(steps, batch_size=trained["batch_size"])


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


def _attacked(
    attack: Attack, results: Sequence[CellResult], found: Reopened, training: Training
) -> dict[str, Row]:
    """Returns one attacker's row of each cell of one layer; they are measured side by side."""
    _, images = _grids_own(results[0], found)
    cells = [Cell(result.topology, result.draw, result.selection) for result in results]
    work = [attack.name, training.budget.steps, len(images), *(cell.name for cell in cells)]
    folder = found.store.workdir / "strong_attacks" / f"training-{sha256_of_json(work)[:16]}"
    checkpoint = Checkpoint(folder, 60 * cli.CHECKPOINT_MINUTES.value)
    protocol = Protocol(attacks=(attack,), attacked=images)
    # Signals are deferred meanwhile, so that the checkpoint can be saved.
    with signals.deferred(), session(checkpoint=checkpoint):
        scenes = [found.scenario(result) for result in results]
        measurements = measure(cells, scenes, protocol, found.settings["seed"])
    checkpoint.discard()
    return {
        result.name: _row(result, measurement, found)
        for result, measurement in zip(results, measurements, strict=True)
    }


def _grids_own(result: CellResult, found: Reopened) -> tuple[np.ndarray, np.ndarray]:
    """PSNR by the grid's strongest attacker of the images to attack, and which these are."""
    values = strongest_values(result, found.store.load_arrays(result.name))["psnr_db"]
    pictures = AttackedPictures.from_arrays(found.store.load_test_pictures())
    scored = pictures.scored(len(values), found.settings["mode"])
    count = cli.ATTACKED_IMAGES.value or len(scored)
    chosen = np.sort(spread_over_classes(pictures.labels[scored], count))
    return values[chosen], scored[chosen]


def _row(result: CellResult, measurement: Measurement, found: Reopened) -> Row:
    by_grid, images = _grids_own(result, found)
    [attacker] = measurement.reports
    quality = measurement.attacks[attacker]["test"]
    psnr_db, ssim = summarise(quality["psnr_db"]), summarise(quality["ssim"])
    return {
        **{name: value for name, value in result.identity().items() if name != "channels"},
        "attacker": attacker,
        "knowledge": measurement.reports[attacker]["knowledge"],
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
        **measurement.training_columns(attacker),
    }


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
