"""The pictures of a characterisation: its trade-off, and what an attacker rebuilt."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np

from privynet_jax.files import write_atomically
from privynet_jax.results import CellResult, ResultStore
from privynet_jax.tables import over_draws

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DPI = 150


def save_tradeoff(results: Sequence[CellResult], store: ResultStore) -> None:
    """Writes tradeoff.png: accuracy against PSNR, colour = layers, size = depth, bars = draws."""
    summaries = over_draws(results)
    layers = sorted({summary.cells[0].num_layers for summary in summaries})
    depths = sorted({summary.cells[0].depth for summary in summaries})
    colours = dict(zip(layers, plt.cm.viridis(np.linspace(0, 0.92, len(layers))), strict=True))
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for summary in summaries:
        cell, psnr, accuracy = summary.cells[0], summary.psnr_db, summary.accuracy
        axes.errorbar(
            psnr.mean,
            100 * accuracy.mean,
            xerr=[[psnr.mean - psnr.least], [psnr.greatest - psnr.mean]],
            yerr=[
                [100 * (accuracy.mean - accuracy.least)],
                [100 * (accuracy.greatest - accuracy.mean)],
            ],
            color=colours[cell.num_layers],
            elinewidth=1,
            capsize=2,
            marker="o",
            markersize=_marker_size(cell.depth),
            markeredgecolor="white",
            linestyle="none",
        )
    for num_layers in layers:
        mine = [s for s in summaries if s.cells[0].num_layers == num_layers]
        axes.plot(
            [s.psnr_db.mean for s in mine],
            [100 * s.accuracy.mean for s in mine],
            color=colours[num_layers],
            alpha=0.35,
            zorder=0,
        )
    _add_references(axes, store)
    _add_legends(axes, results, colours, depths)
    axes.set_xlabel("privacy loss: mean PSNR of the strongest attacker, dB (left is more private)")
    axes.set_ylabel("accuracy of the cloud NN on test images, %")
    axes.set_title("Accuracy against privacy; bars span the channel draws")
    axes.grid(alpha=0.25)
    _save(figure, store, "tradeoff.png")


def save_reconstructions(
    results: Sequence[CellResult], store: ResultStore, originals: np.ndarray, names: Sequence[str]
) -> None:
    """Writes reconstructions.png: originals, then a row per named cell by its strongest attacker.

    Args:
        results: all results.
        store: where the cells' examples are.
        originals: uint8 [K, H, W, 3].
        names: cells to show, top to bottom.
    """
    by_name = {result.name: result for result in results}
    shown = [by_name[name] for name in names if name in by_name]
    rows = [("originals", originals)]
    for result in shown:
        attack = result.strongest
        examples = store.load_arrays(result.name)[f"{attack.attacker}_examples"]
        title = f"{result.layer}, {result.depth} channels\n{attack.psnr_db.mean:.1f} dB on average"
        rows.append((title, examples))
    count = len(originals)
    figure, grid = plt.subplots(
        len(rows),
        count,
        figsize=(1.9 + 0.85 * count, 0.3 + 0.87 * len(rows)),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.05},
    )
    figure.subplots_adjust(left=1.75 / figure.get_figwidth(), right=0.99, top=0.93, bottom=0.01)
    for row, (title, images) in zip(grid, rows, strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image)
            axes.set_axis_off()
        row[0].text(-0.08, 0.5, title, transform=row[0].transAxes, ha="right", va="center", size=8)
    figure.suptitle("What the strongest attacker rebuilds of test images", size=10)
    _save(figure, store, "reconstructions.png")


def _add_references(axes: plt.Axes, store: ResultStore) -> None:
    rows = {row["reference"]: row for row in store.read_csv("reference.csv")}
    accuracy = 100 * float(rows["no_split"]["accuracy"])
    psnr = float(rows["mean_image"]["psnr_db_mean"])
    axes.axhline(accuracy, color="grey", linestyle=":", linewidth=1)
    axes.axvline(psnr, color="grey", linestyle="--", linewidth=1)
    axes.annotate(
        "no split: trained on images",
        (0.995, accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color="grey",
        size=8,
    )
    axes.annotate(
        "answering the mean image",
        (psnr, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        rotation=90,
        va="bottom",
        color="grey",
        size=8,
    )


def _add_legends(
    axes: plt.Axes, results: Sequence[CellResult], colours: dict, depths: Sequence[int]
) -> None:
    layer_names = {result.num_layers: result.layer for result in results}
    handles = [
        plt.Line2D(
            [], [], marker="o", linestyle="none", color=colour, label=f"{m}: {layer_names[m]}"
        )
        for m, colour in colours.items()
    ]
    handles += [
        plt.Line2D(
            [],
            [],
            marker="o",
            linestyle="none",
            color="grey",
            markersize=_marker_size(depth),
            label=f"{depth} channels",
        )
        for depth in depths
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _marker_size(depth: int) -> float:
    return 3.5 + 1.2 * float(np.sqrt(depth))


def _save(figure: plt.Figure, store: ResultStore, name: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    write_atomically(store.workdir / name, buffer.getvalue())
