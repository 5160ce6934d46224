r"""Strong attacks on a finished characterisation: by how much its own attackers fell short.

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
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import filled, reopened
from privynet_jax import Budget, Protocol, UserError, session
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.registry import Training, attackers, named_attacks
from privynet_jax.characterisation.measure import outcomes
from privynet_jax.characterisation.modes import check_guessing
from privynet_jax.characterisation.reopening import Reopened
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform import signals
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell, Measurement, check_values
from privynet_jax.results.risk_tables import RECOGNISABLE_SSIM, ranged, scored, strongest_values
from privynet_jax.results.statistics import bootstrap, mean_of, p95_of, share_of, summarise
from privynet_jax.results.text_tables import aligned
from privynet_jax.training.checkpoints import Checkpoint

cli.key_flags("workdir weights cache_dir data_dir skip_unreadable sixteen_bit_max dicom_window")
cli.key_flags("attackers attacked_images checkpoint_minutes")
_STEPS = flags.DEFINE_integer(
    "strong_steps", None, "Mini-batches of each; default: four times the characterisation's.", 1
)
_FIRST, _ALL = "first", "all"
_CELLS = flags.DEFINE_list(
    "attacked_cells", [_FIRST], "Names of cells, as in cells/; first: the first draws; or all."
)
STRONG_ATTACKS = "strong_attacks.csv"
_USUAL = ("linear", "strong", "white box from strong")
_TIMES_AS_LONG = 4
# Rises with other columns, so that kept rows of before are refused. 2: intervals over sources; 3:
# beyond_grid_db.
_ROW_VERSION = 3

Row = Mapping[str, Any]


def main() -> None:
    cli.use_cpu_cores()
    found = reopened()
    trained = found.settings["attacker"]
    steps = _STEPS.value or _TIMES_AS_LONG * trained["steps"]
    training = Training(Budget(steps, batch_size=trained["batch_size"]))
    names = cli.ATTACKERS.value or _USUAL
    check_guessing(found.config.of_devices, names)
    attacks = named_attacks(names, training)
    results = _chosen(found.results)
    settings = {"steps": steps, "images": cli.ATTACKED_IMAGES.value, "row_version": _ROW_VERSION}
    folder = found.store.workdir / "strong_attacks"
    kept = KeptRows(folder, {**settings, "grid": dict(found.settings)})
    titles = [_title(result, attack.name) for result in results for attack in attacks]
    done = sum(kept.read(title) is not None for title in titles)
    try:
        bar = progress_bar(len(titles), "attacking", "attacks", done)
        with everything_first() as postponed, bar as advance:
            layers = dict.fromkeys(result.num_layers for result in results)
            for number, attack in itertools.product(layers, attacks):
                group = [result for result in results if result.num_layers == number]
                titled = {_title(result, attack.name): result for result in group}
                with postponed(), session(progress=advance):
                    filled(kept, titled, functools.partial(_attacked, attack, found, training))
    finally:
        # All rows of the same settings, whichever call they are of, and also of one cut short.
        every = [_title(result, name) for result in found.results for name in attackers(training)]
        found.store.write_csv(STRONG_ATTACKS, list(filter(None, map(kept.read, every))))
    rows = [kept.read(title) for title in titles]
    print(aligned([_shown(row) for row in rows]))
    print(_verdict(rows))
    print(f"{STRONG_ATTACKS} is in {found.store.workdir}.")


def _title(result: CellResult, attacker: str) -> str:
    return f"{result.name}, {attacker}"


def _chosen(results: Sequence[CellResult]) -> list[CellResult]:
    named, known = _CELLS.value, [result.name for result in results]
    if named in ([_FIRST], [_ALL]):
        return [result for result in results if named == [_ALL] or result.draw == 0]
    check_values("--attacked_cells", named)
    if unknown := sorted(set(named) - set(known)):
        allowed = f"{_FIRST}, {_ALL}, or some of {', '.join(known)}"
        raise UserError(f"--attacked_cells names {', '.join(unknown)}; allowed are {allowed}")
    return [result for result in results if result.name in named]


def _attacked(
    attack: Attack, found: Reopened, training: Training, results: Sequence[CellResult]
) -> Iterator[Row | DivergedError]:
    """One attacker's row of each cell of one layer; they are measured side by side."""
    _, images = _grids_own(results[0], found)
    cells = [Cell(result.topology, result.draw, result.selection) for result in results]
    work = [attack.name, training.budget.steps, len(images), *(cell.name for cell in cells)]
    folder = found.store.workdir / "strong_attacks" / f"training-{sha256_of_json(work)[:16]}"
    checkpoint = Checkpoint(folder, 60 * cli.CHECKPOINT_MINUTES.value)
    protocol = Protocol(attacks=(attack,), attacked=images)
    examples = training.budget.steps * training.budget.batch_size
    scenes = [found.scenario(result, examples) for result in results]
    # Until whoever takes the rows has kept them, and the checkpoint may go.
    with signals.deferred():
        with session(checkpoint=checkpoint):
            measured = outcomes(cells, scenes, protocol, found.settings["seed"])
        for result, each in zip(results, measured, strict=True):
            yield each if isinstance(each, DivergedError) else _row(result, each, found)
        checkpoint.discard()


def _grids_own(result: CellResult, found: Reopened) -> tuple[np.ndarray, np.ndarray]:
    """PSNR by the grid's strongest attacker of the images to attack, and which these are."""
    values = strongest_values(result, found.store.load_arrays(result.name))["psnr_db"]
    labels = found.store.load_test_pictures()["labels"]
    rows = scored(labels, len(values), found.settings["mode"])
    count = cli.ATTACKED_IMAGES.value or len(rows)
    chosen = np.sort(spread_over_classes(labels[rows], count))
    return values[chosen], rows[chosen]


def _row(result: CellResult, measurement: Measurement, found: Reopened) -> Row:
    by_grid, images = _grids_own(result, found)
    [attacker] = measurement.reports
    quality = measurement.attacks[attacker]["test"]
    psnr_db, ssim = summarise(quality["psnr_db"]), summarise(quality["ssim"])
    sources = found.parts.test.clusters(images)
    mean, p95 = (bootstrap(quality["psnr_db"], of, sources) for of in (mean_of, p95_of))
    beyond = bootstrap(quality["psnr_db"] - by_grid, mean_of, sources)
    return {
        **{name: value for name, value in result.identity().items() if name != "channels"},
        "attacker": attacker,
        "knowledge": measurement.reports[attacker]["knowledge"],
        "images": len(images),
        **{f"psnr_db_{name}": value for name, value in dataclasses.asdict(psnr_db).items()},
        **mean.columns("psnr_db_mean"),
        **p95.columns("psnr_db_p95"),
        "ssim_mean": ssim.mean,
        "ssim_p95": ssim.p95,
        **share_of(quality["ssim"] >= RECOGNISABLE_SSIM, sources).columns("recognisable"),
        "grid_attacker": result.strongest.attacker,
        "grid_psnr_db": float(np.mean(by_grid)),
        **beyond.columns("beyond_grid_db"),
        **measurement.training_columns(attacker),
    }


def _shown(row: Row) -> Row:
    return {
        "layers": f"{row['num_layers']} {row['layer']}",
        **{name: row[name] for name in ("depth", "selection", "draw", "attacker", "knowledge")},
        "PSNR dB (95 %)": ranged(row, "psnr_db_mean"),
        "p95 (95 %)": ranged(row, "psnr_db_p95"),
        "max": f"{row['psnr_db_max']:.1f}",
        "SSIM": f"{row['ssim_mean']:.2f}",
        "recognisable %": ranged(row, "recognisable", 100, digits=0),
        "grid's dB": f"{row['grid_psnr_db']:.1f}",
        "beyond it, dB (95 %)": ranged(row, "beyond_grid_db"),
        "falling %": f"{row['falling_percent_per_doubling']:.0f}",
        "converged": row["converged"],
    }


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
    cli.run(main, continues=True)
