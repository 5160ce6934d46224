"""The pictures of a characterisation, and what other commands draw with."""

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from privynet_jax import ResultStore, UserError, as_float, psnr_db
from privynet_jax.backbone.topology import METHODS, RANDOM
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.summaries import DrawSummary, Spread, over_draws
from privynet_jax.results.work_directory import REFERENCES
from privynet_jax.training.models.attackers import CAPACITIES

matplotlib.use("Agg")
from matplotlib import patheffects
from matplotlib import pyplot as plt

DPI = 150
GREY = "0.45"
LOSS = "privacy loss: mean PSNR of the strongest attacker, dB (left is more private)"
ACCURACY = "accuracy of the cloud NN on test images, %"
# Told apart by people who see no red or no green (Okabe and Ito 2008), and by shape besides.
matplotlib.rcParams["axes.prop_cycle"] = matplotlib.cycler(
    color=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999"]
)
MARKERS, LINES, HATCHES = (
    "osD^v*PX<>hpd8H",
    ("-", "--", "-.", ":"),
    ("", "//", "..", "xx", "--", "\\\\"),
)
_DOT = {"marker": "o", "linestyle": "none"}
_SMALL, _TINY = 8, 6.5
# Sizes of rows of images, in inches.
_IMAGE, _GAP, _CAPTION = 0.82, 0.06, 0.15


def save_tradeoff(results: Sequence[CellResult], store: ResultStore) -> None:
    """Writes tradeoff.png."""
    write_atomically(store.workdir / "tradeoff.png", tradeoff(results, store))


def tradeoff(results: Sequence[CellResult], store: ResultStore) -> bytes:
    """Returns a PNG of accuracy against PSNR, where the marker's shape tells the selection.

    While cells are measured there are no references yet.
    """
    compared = references(store) if (store.workdir / REFERENCES).exists() else None
    summaries = over_draws(results)
    layers = {s.cells[0].num_layers: s.cells[0].layer for s in summaries}
    styles = dict(zip(layers, layer_styles(len(layers)), strict=True))
    named = {f"{m}: {name}": {"marker": "o", **styles[m]} for m, name in layers.items()}
    handles = legend_handles(named, [s.cells[0].depth for s in summaries])
    shapes = marker_shapes(s.cells[0].selection for s in summaries)
    # The legend has a line per layer and depth, and must not be taller than the picture.
    height = max(4.8, 1.6 + 0.23 * (len(handles) + len(shapes)))
    figure, axes = plt.subplots(figsize=(7.8, height), layout="constrained")
    for drawn in itertools.product(styles, shapes):
        chosen = [s for s in summaries if (s.cells[0].num_layers, s.cells[0].selection) == drawn]
        if chosen:
            _plot_layer(axes, chosen, styles[drawn[0]], shapes[drawn[1]])
    if len(shapes) > 1:
        handles += [
            handle(f"{selection} selection", color=GREY, marker=shape, linestyle="none")
            for selection, shape in shapes.items()
        ]
    if compared is not None:
        no_split, mean_image = compared
        axes.axhline(100 * no_split, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        axes.axvline(mean_image, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        # Beside the lines themselves, names would sooner or later cover points.
        handles += [
            handle("no split: same network\nand steps, raw pixels", color=GREY, linestyle=":"),
            handle("no attack: the mean\nimage every time", color=GREY, linestyle="--"),
        ]
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}
    axes.legend(handles=handles, fontsize=_SMALL + 1, handlelength=3.4, **place)
    # Without networks of their own, cells were not measured with --mode=dedicated.
    dedicated = any(attack.attacker in CAPACITIES for attack in results[0].attacks)
    estimated = "" if dedicated else ", estimated"
    bars = "; bars span the channel draws" if any(len(s.cells) > 1 for s in summaries) else ""
    axes.set_title(f"Accuracy against privacy loss{estimated}{bars}", size=11)
    axes.set(xlabel=LOSS, ylabel=ACCURACY)
    tidy(axes)
    return as_png(figure)


def save_reconstructions(
    results: Sequence[CellResult], store: ResultStore, originals: np.ndarray, names: Sequence[str]
) -> None:
    """Writes reconstructions.png: originals, then a row per named cell that is finished."""
    by_name = {result.name: result for result in results}
    shown = {}
    for result in (by_name[name] for name in names if name in by_name):
        attack = result.strongest
        method = "" if result.selection == RANDOM else f", {result.selection}"
        title = (
            f"{result.num_layers}: {result.layer}, {_counted(result.depth)}{method}\n"
            f"draw {result.draw}, {attack.psnr_db.mean:.1f} dB on average"
        )
        shown[title] = store.load_arrays(result.name)[f"{attack.attacker}_examples"]
    heading = "Test images as the strongest attacker rebuilds them, and the PSNR of each in dB"
    write_atomically(store.workdir / "reconstructions.png", image_rows(originals, shown, heading))


def image_rows(originals: np.ndarray, rows: Mapping[str, np.ndarray], heading: str) -> bytes:
    """Returns a PNG of originals and, by title, rows of estimates, all uint8 [K, H, W, 3]."""
    width = len(originals) * (_IMAGE + _GAP) - _GAP
    height = (1 + len(rows)) * (_IMAGE + _CAPTION)
    figure, grid = plt.subplots(
        1 + len(rows),
        len(originals),
        figsize=(width, height),
        squeeze=False,
        gridspec_kw={"wspace": _GAP / _IMAGE, "hspace": _CAPTION / _IMAGE},
    )
    # Titles lie outside: saving makes room for them.
    figure.subplots_adjust(left=0, right=1, top=1, bottom=_CAPTION / height)
    _show_row(grid[0], "originals", originals, captions=[""] * len(originals))
    for axes, (title, images) in zip(grid[1:], rows.items(), strict=True):
        quality = np.asarray(psnr_db(as_float(images), as_float(originals)))
        _show_row(axes, title, images, captions=[f"{value:.1f}" for value in quality])
    above = {"xytext": (0, 6), "textcoords": "offset points", "size": 10}
    grid[0, 0].annotate(heading, (0, 1), xycoords="axes fraction", **above)
    return as_png(figure)


def references(store: ResultStore) -> tuple[float, float]:
    """Returns accuracy without a split, in [0, 1], and the mean image's PSNR in dB."""
    try:
        rows = {row["reference"]: row for row in store.read_csv(REFERENCES)}
        return float(rows["no_split"]["accuracy"]), float(rows["mean_image"]["psnr_db_mean"])
    except (KeyError, TypeError, ValueError):
        path = store.workdir / REFERENCES
        raise UserError(f"{path} is missing or damaged; delete it and run again") from None


def marker_shapes(selections: Iterable[str]) -> dict[str, str]:
    """Returns selection -> Matplotlib's marker for it, in the order of `METHODS`."""
    present = set(selections)
    return {m: shape for m, shape in zip(METHODS, "ovs^D", strict=True) if m in present}


def layer_styles(count: int) -> list[dict[str, Any]]:
    """Returns so many styles of lines, from dark to bright, neighbours with other dashes."""
    # The map's brightest end would hardly show on white.
    shades = plt.cm.viridis(np.linspace(0, 0.88, count))
    return [
        {"color": colour, "linestyle": line}
        for colour, line in zip(shades, itertools.cycle(LINES), strict=False)
    ]


def handle(label: str, **style: Any) -> plt.Line2D:
    """Returns an entry of a legend."""
    return plt.Line2D([], [], label=label, **style)


def legend_handles(
    named: Mapping[str, Mapping[str, Any]], depths: Iterable[int]
) -> list[plt.Line2D]:
    """Returns a legend's entries: for styles by their names, then for the sizes of markers."""
    dots = [handle(name, **{**_DOT, **style}) for name, style in named.items()]
    sizes = {_counted(depth): marker_size(depth) for depth in sorted(set(depths))}
    return dots + [handle(name, color=GREY, markersize=s, **_DOT) for name, s in sizes.items()]


def marker_size(depth: int) -> float:
    """Points across; every doubling of the depth adds as much."""
    return 4.5 + 1.1 * math.log2(depth)


def draw_point(
    axes: plt.Axes, x: float, y: float, *, depth: int, marker: str = "o", **style: Any
) -> None:
    """Draws a topology, larger the more channels it releases; "xerr" and "yerr" are bars."""
    edges = {"markeredgecolor": "white", "markeredgewidth": 0.7, "elinewidth": 1, "capsize": 2}
    axes.errorbar(x, y, marker=marker, markersize=marker_size(depth), **edges, **style)


def tidy(axes: plt.Axes) -> None:
    """Gives axes a faint grid behind the data, and no box."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def as_png(figure: plt.Figure) -> bytes:
    """Returns a finished figure as the content of a PNG file, and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    return buffer.getvalue()


def _plot_layer(
    axes: plt.Axes, summaries: Sequence[DrawSummary], style: Mapping[str, Any], shape: str
) -> None:
    points = [(s.psnr_db.mean, 100 * s.accuracy.mean) for s in summaries]
    axes.plot(*zip(*points, strict=True), alpha=0.5, zorder=1.5, **style)
    for summary, point in zip(summaries, points, strict=True):
        bars = {"xerr": _bar(summary.psnr_db), "yerr": 100 * _bar(summary.accuracy)}
        depth = summary.cells[0].depth
        draw_point(axes, *point, depth=depth, marker=shape, color=style["color"], **bars)
    near = {"xytext": (5, -11), "textcoords": "offset points", "size": _SMALL, "zorder": 5}
    halo = patheffects.withStroke(linewidth=2, foreground="white")
    number = str(summaries[-1].cells[0].num_layers)
    axes.annotate(number, points[-1], color="0.15", path_effects=[halo], **near)


def _bar(spread: Spread) -> np.ndarray:
    """Lengths [2, 1] below and above the mean."""
    # The mean of equal numbers may be rounded to just outside them; Matplotlib refuses that.
    return np.maximum([[spread.mean - spread.least], [spread.greatest - spread.mean]], 0)


def _counted(depth: int) -> str:
    return f"{depth} channel{'s' if depth > 1 else ''}"


def _show_row(
    row: Sequence[plt.Axes], title: str, images: np.ndarray, captions: Sequence[str]
) -> None:
    for axes, image, caption in zip(row, images, captions, strict=True):
        axes.imshow(image)
        axes.set_axis_off()
        axes.text(0.5, -0.03, caption, transform=axes.transAxes, ha="center", va="top", size=_TINY)
    row[0].text(-0.1, 0.5, title, transform=row[0].transAxes, ha="right", va="center", size=_SMALL)
