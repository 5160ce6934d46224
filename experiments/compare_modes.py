"""How well estimates rank and predict dedicated measurements of the same cells.

    python -m experiments.compare_modes --dedicated=runs/dedicated --estimated=runs/amortised

Joins the results.csv of two work directories by cell, prints rank correlations and mean differences
(estimated minus dedicated), and writes them, and a picture, to --output.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from absl import flags
from scipy import stats

from experiments import cli
from privynet_jax.characterisation.config import DEDICATED
from privynet_jax.errors import UserError
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.text_tables import as_csv

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_DEDICATED = flags.DEFINE_string("dedicated", None, "Work directory of dedicated networks.")
_ESTIMATED = flags.DEFINE_string("estimated", None, "Work directory of estimates.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; default: --estimated.")

# Column of results.csv -> what it is called, its unit, and what a number is multiplied with.
_COLUMNS = {"accuracy": ("accuracy", "%", 100.0), "psnr_db_mean": ("PSNR", "dB", 1.0)}
# What makes two rows the same cell.
_IDENTITY = ("num_layers", "depth", "draw", "channels")

Row = Mapping[str, str]


def main() -> None:
    folders = [_folder("dedicated", _DEDICATED.value), _folder("estimated", _ESTIMATED.value)]
    for folder, dedicated in zip(folders, (True, False), strict=True):
        _check_mode(folder, dedicated)
    pairs = joined(*map(read_results, folders))
    rows = comparison(pairs)
    output = cli.folder("output", _OUTPUT.value) if _OUTPUT.value else folders[1]
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "comparison.csv", as_csv(rows))
    write_atomically(output / "comparison.png", _picture(pairs))
    print(_as_text(rows))
    print(f"comparison.csv and comparison.png are in {output}.")


def read_results(workdir: Path) -> list[Row]:
    """Returns the rows of a work directory's results.csv.

    Raises:
        UserError: there is none, or it lacks a column.
    """
    path = workdir / "results.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing; give a work directory of experiments.characterize")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    lacking = [name for name in (*_IDENTITY, *_COLUMNS) if not rows or name not in rows[0]]
    if lacking:
        raise UserError(f"{path} has no {', '.join(lacking)}; make it anew")
    return rows


def joined(dedicated: Sequence[Row], estimated: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Returns (dedicated, estimated) rows of the cells that both have, in the dedicated order.

    Raises:
        UserError: fewer than three cells are in both.
    """
    by_cell = {_cell(row): row for row in estimated}
    pairs = [(row, by_cell[_cell(row)]) for row in dedicated if _cell(row) in by_cell]
    if len(pairs) < 3:
        raise UserError(
            f"the work directories share {len(pairs)} cells of {len(dedicated)} and "
            f"{len(estimated)}; allowed are 3 or more; run both with the same layers, depths and "
            "seed"
        )
    return pairs


def comparison(pairs: Sequence[tuple[Row, Row]]) -> list[dict[str, str | int | float]]:
    """Returns one row per (number of layers, column), and one per column over all layers.

    `spearman` is the rank correlation. `within` is Pearson's after the mean of each (layers, depth)
    is taken away on both sides: how well the choice of channels alone is told. Differences are
    estimated minus dedicated; `spread` is their standard deviation.
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


def _cell(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in _IDENTITY)


def _as_text(rows: Sequence[Mapping[str, str | int | float]]) -> str:
    header = "layers  number      cells  Spearman  within depth  mean difference  its spread"
    lines = [
        f"{row['layers']:>6}  {row['number']:<10}  {row['cells']:5d}  {row['spearman']:8.3f}  "
        f"{row['within']:12.3f}  {row['mean_difference']:15.2f}  {row['spread']:10.2f}"
        for row in rows
    ]
    return "\n".join([header, "-" * len(header), *lines])


def _picture(pairs: Sequence[tuple[Row, Row]]) -> bytes:
    """A panel per column: estimated against dedicated, colour = layers, size = depth."""
    layers = sorted({int(dedicated["num_layers"]) for dedicated, _ in pairs})
    colours = plt.cm.viridis(np.linspace(0, 0.88, len(layers)))
    figure, panels = plt.subplots(1, len(_COLUMNS), figsize=(9.6, 4.6), layout="constrained")
    for axes, (column, (title, unit, factor)) in zip(panels, _COLUMNS.items(), strict=True):
        for num_layers, colour in zip(layers, colours, strict=True):
            mine = [pair for pair in pairs if int(pair[0]["num_layers"]) == num_layers]
            x, y = ([factor * float(pair[side][column]) for pair in mine] for side in (0, 1))
            sizes = [_area(int(dedicated["depth"])) for dedicated, _ in mine]
            axes.scatter(x, y, s=sizes, color=colour, edgecolor="white", linewidth=0.6, zorder=2)
        low, high = (f(*axes.get_xlim(), *axes.get_ylim()) for f in (min, max))
        axes.locator_params(nbins=6)
        axes.plot([low, high], [low, high], color="0.45", linestyle=":", zorder=1)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_xlabel(f"{title} by dedicated networks, {unit}")
        axes.set_ylabel(f"{title} estimated, {unit}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        plt.Line2D([], [], color=colour, marker="o", linestyle="none", label=f"{num_layers} layers")
        for num_layers, colour in zip(layers, colours, strict=True)
    ]
    depths = sorted({int(dedicated["depth"]) for dedicated, _ in pairs})
    handles += [
        plt.Line2D(
            [],
            [],
            color="0.45",
            marker="o",
            linestyle="none",
            markersize=_area(depth) ** 0.5,
            label=f"{depth} channels",
        )
        for depth in depths
    ]
    handles.append(plt.Line2D([], [], color="0.45", linestyle=":", label="equal"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    plt.close(figure)
    return buffer.getvalue()


def _check_mode(workdir: Path, dedicated: bool) -> None:
    """Raises UserError where the work directory's mode is not of the kind that is wanted."""
    path = workdir / "config.json"
    try:
        mode = json.loads(path.read_text(encoding="utf-8"))["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is missing or damaged; give a work directory of experiments.characterize"
        ) from None
    if (mode == DEDICATED) != dedicated:
        wanted = "dedicated" if dedicated else "amortised or linear"
        raise UserError(f"{workdir} was made with --mode={mode}; give one made with {wanted}")


def _area(depth: int) -> float:
    """Of a dot, in square points."""
    return 12 * np.log2(1 + depth)


def _folder(flag: str, path: str | None) -> Path:
    if not path:
        raise UserError(f"no --{flag} is given; name a work directory of experiments.characterize")
    return cli.folder(flag, path)


if __name__ == "__main__":
    cli.run(main)
