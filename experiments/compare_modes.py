"""How well estimates rank and predict dedicated measurements of the same cells.

    python -m experiments.compare_modes --dedicated=runs/dedicated --estimated=runs/amortised

Joins the results.csv of two work directories by cell, prints rank correlations and mean differences
(estimated minus dedicated), and writes them, and a picture, to --estimated. Then some of the cells
calibrate the estimates: the others say how far off they are after that, and calibrated.csv, in
--estimated, has all of them.

Estimates score fewer pictures. So there is the mean difference on those that both score, too, with
a 95 % interval over their sources (photographs), for which it is taken picture by picture first.
"""

import dataclasses
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags
from scipy import stats

from experiments import cli
from experiments.comparing.calibration import Estimated, calibrated, spread_out
from experiments.comparing.picture_values import PictureValues
from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax import ResultStore, UserError
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cell_results import cell_name
from privynet_jax.results.statistics import Interval
from privynet_jax.results.text_tables import aligned, as_csv

cli.key_flags("")
_DEDICATED = flags.DEFINE_string("dedicated", None, "Work directory of dedicated networks.")
_ESTIMATED = flags.DEFINE_string("estimated", None, "Work directory of estimates.")
_CALIBRATED_ON = flags.DEFINE_integer(
    "calibrated_on", 8, "Most cells that calibrate the estimates.", 1
)

# Column of results.csv -> what it is called, its unit, and what a number is multiplied with.
_COLUMNS = {
    "accuracy": ("accuracy", "%", 100.0),
    "balanced_accuracy": ("balanced accuracy", "%", 100.0),
    "psnr_db_mean": ("PSNR", "dB", 1.0),
}
# What makes two rows the same cell.
_IDENTITY = ("num_layers", "depth", "selection", "draw", "channels")

Row = Mapping[str, str]
# (rows of both, column) -> the mean difference on the pictures that both score.
Paired = Callable[[Sequence[tuple[Row, Row]], str], Interval]


def main() -> None:
    stores = [_opened(_DEDICATED, dedicated=True), _opened(_ESTIMATED, dedicated=False)]
    dedicated, estimated = map(read_results, stores)
    pairs = joined(dedicated, estimated)
    paired = paired_on(*stores)
    rows = comparison(pairs, paired)
    output = stores[1].workdir
    write_atomically(output / "comparison.csv", as_csv(rows))
    write_atomically(output / "comparison.png", _picture(pairs))
    print(aligned(rows, digits=3))
    put_right, used = put_right_by(pairs, estimated, _CALIBRATED_ON.value)
    write_atomically(output / "calibrated.csv", as_csv(put_right))
    others = [pair for pair in joined_rows(dedicated, put_right) if pair[0] not in used]
    if len(others) >= 3:
        print(f"Calibrated on {len(used)} cells, the other {len(others)}:")
        print(aligned(comparison(others), digits=3))
    if not paired:
        print("Their images differ, so there is no difference on the same pictures.")
    print(f"comparison.csv, comparison.png and calibrated.csv are in {output}.")


def read_results(store: ResultStore) -> list[Row]:
    """Returns the rows of a work directory's results.csv."""
    rows = store.read_csv("results.csv")
    lacking = [name for name in (*_IDENTITY, *_COLUMNS) if not rows or name not in rows[0]]
    if lacking:
        path = store.workdir / "results.csv"
        raise UserError(f"{path} has no {', '.join(lacking)}; make it anew")
    return rows


def joined(dedicated: Sequence[Row], estimated: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Returns (dedicated, estimated) rows of the cells that both have, in the dedicated order.

    Raises:
        UserError: they share fewer than three.
    """
    pairs = joined_rows(dedicated, estimated)
    if len(pairs) < 3:
        shared = f"{len(pairs)} cells of {len(dedicated)} and {len(estimated)}"
        remedy = "run both with the same layers, depths and seed"
        raise UserError(f"the work directories share {shared}; allowed are 3 or more; {remedy}")
    return pairs


def joined_rows(dedicated: Sequence[Row], estimated: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Returns (dedicated, estimated) rows of the cells that both have, however few."""
    cell = operator.itemgetter(*_IDENTITY)
    by_cell = {cell(row): row for row in estimated}
    return [(row, by_cell[cell(row)]) for row in dedicated if cell(row) in by_cell]


def put_right_by(
    pairs: Sequence[tuple[Row, Row]], estimated: Sequence[Row], most: int
) -> tuple[list[dict[str, str | float]], list[Row]]:
    """Returns all estimated cells after calibration, and the dedicated rows that were used.

    The cells that calibrate are chosen by the estimates of PSNR, the same ones for every column.
    """

    def places(column: str, rows: Sequence[Row]) -> list[Estimated]:
        return [
            Estimated(int(row["num_layers"]), int(row["depth"]), float(row[column])) for row in rows
        ]

    index = {id(row): i for i, row in enumerate(estimated)}
    chosen = [pairs[i] for i in spread_out(places("psnr_db_mean", [p[1] for p in pairs]), most)]
    put_right = [{name: row[name] for name in _IDENTITY} for row in estimated]
    for column in _COLUMNS:
        truths = {index[id(guess)]: float(truth[column]) for truth, guess in chosen}
        values = calibrated(places(column, estimated), truths)
        for row, value in zip(put_right, values, strict=True):
            row[column] = float(value)
    return put_right, [truth for truth, _ in chosen]


def paired_on(dedicated: ResultStore, estimated: ResultStore) -> Paired | None:
    """Returns what tells mean differences on the pictures that both work directories score.

    Estimated minus dedicated, in the units of results.csv, with the interval over sources; None
    where the test images are not the same.
    """
    stores = dedicated, estimated
    configs = [ResultStore.existing(store.workdir)[1] for store in stores]
    if configs[0]["data_fingerprint"] != configs[1]["data_fingerprint"]:
        return None
    truths, guesses = itertools.starmap(PictureValues.of, zip(stores, configs, strict=True))

    def paired(pairs: Sequence[tuple[Row, Row]], column: str) -> Interval:
        names = [_cell_name(row) for row, _ in pairs]
        ours, theirs = ([store.load(name) for name in names] for store in (estimated, dedicated))
        return guesses.difference(ours, theirs, column, truths)

    return paired


def _cell_name(row: Row) -> str:
    return cell_name(int(row["num_layers"]), int(row["depth"]), row["selection"], int(row["draw"]))


def comparison(
    pairs: Sequence[tuple[Row, Row]], paired: Paired | None = None
) -> list[dict[str, str | int | float]]:
    """Returns one row per (number of layers, column), and one per column over all layers.

    `within` is Pearson's correlation after the mean of each (layers, depth) is taken away: how well
    the choice of channels alone is told. `spread` is the differences' standard deviation.
    `on_same_pictures` is what `paired` tells, if it is given.
    """
    layers = sorted({int(dedicated["num_layers"]) for dedicated, _ in pairs})
    rows: list[dict[str, str | int | float]] = []
    for num_layers in (*layers, "all"):
        mine = [pair for pair in pairs if num_layers in ("all", int(pair[0]["num_layers"]))]
        shapes = [(dedicated["num_layers"], dedicated["depth"]) for dedicated, _ in mine]
        for column, (title, unit, factor) in _COLUMNS.items():
            truth, guess = (
                factor * np.array([float(pair[side][column]) for pair in mine]) for side in (0, 1)
            )
            rows.append(
                {
                    "layers": num_layers,
                    "number": f"{title} {unit}",
                    "cells": len(mine),
                    "spearman": spearman(truth, guess),
                    "within": _pearson(_centred(truth, shapes), _centred(guess, shapes)),
                    "mean_difference": float(np.mean(guess - truth)),
                    "spread": float(np.std(guess - truth)),
                }
            )
            if paired:
                found = dataclasses.astuple(paired(mine, column))
                same = Interval(*(factor * number for number in found))
                rows[-1] |= same.columns("on_same_pictures")
    return rows


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation; equal values share their mean rank. NaN if constant."""
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / norm) if norm > 0 else float("nan")


def _centred(values: np.ndarray, groups: Sequence[tuple[str, str]]) -> np.ndarray:
    _, inverse = np.unique(np.array(groups), axis=0, return_inverse=True)
    means = np.bincount(inverse, values) / np.bincount(inverse)
    return values - means[inverse]


def _picture(pairs: Sequence[tuple[Row, Row]]) -> bytes:
    """A panel per column: estimated against dedicated, colour = layers, size = depth."""
    layers, depths = (
        sorted({int(row[name]) for row, _ in pairs}) for name in ("num_layers", "depth")
    )
    styles = {
        number: {"color": style["color"], "marker": marker}
        for number, style, marker in zip(
            layers, plots.layer_styles(len(layers)), itertools.cycle(plots.MARKERS), strict=False
        )
    }
    figure, panels = plt.subplots(1, len(_COLUMNS), figsize=(14.4, 4.6), layout="constrained")
    for axes, (column, (title, unit, factor)) in zip(panels, _COLUMNS.items(), strict=True):
        for pair in pairs:
            number, depth = (int(pair[0][name]) for name in ("num_layers", "depth"))
            point = (factor * float(row[column]) for row in pair)
            plots.draw_point(axes, *point, depth=depth, **styles[number])
        low, high = (f(*axes.get_xlim(), *axes.get_ylim()) for f in (min, max))
        axes.locator_params(nbins=6)
        axes.plot([low, high], [low, high], color=plots.GREY, linestyle=":", zorder=1)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_xlabel(f"{title} by dedicated networks, {unit}")
        axes.set_ylabel(f"{title} estimated, {unit}")
        plots.tidy(axes)
    handles = plots.legend_handles({f"{m} layers": styles[m] for m in layers}, depths)
    handles.append(plots.handle("equal", color=plots.GREY, linestyle=":"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return plots.as_png(figure)


def _opened(flag: flags.FlagHolder, *, dedicated: bool) -> ResultStore:
    store, config = ResultStore.existing(cli.needed_folder(flag))
    if (config["mode"] == DEDICATED) != dedicated:
        wanted = f"give one made with {'dedicated' if dedicated else 'amortised or linear'}"
        raise UserError(f"{store.workdir} was made with --mode={config['mode']}; {wanted}")
    if "mechanism" in config:
        raise UserError(
            f"{store.workdir} was characterised with the mechanism {config['mechanism']}, of which "
            "nothing is estimated; give one without"
        )
    return store


if __name__ == "__main__":
    cli.run(main)
