"""The picture of `compare_defences`: accuracy over privacy loss, a line per kind of defence."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from experiments.reporting import plots
from privynet_jax.results.summaries import Point, frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_NONE, _GREY = "none", "0.5"
_TITLES = {
    "gaussian": "Gaussian noise",
    "laplace": "Laplace noise",
    "arden": "Arden",
    "dropout": "channel dropout",
    "quantise": "quantisation, nearest",
    "quantise, stochastic": "quantisation, stochastic",
}


def picture(table: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns a PNG.

    Args:
        table: the lines of defences.csv. Lines of the kind "none" are PrivyNet's own trade-off; the
            topologies of the other lines get a marker of their own each.
    """
    own = [line for line in table if line["kind"] == _NONE]
    defended = [line for line in table if line["kind"] != _NONE]
    places = list(dict.fromkeys((line["layers"], line["depth"]) for line in defended))
    markers = dict(zip(places, itertools.cycle("osD^v"), strict=False))
    figure, axes = plt.subplots(figsize=(9.2, 5.6), layout="constrained")
    _draw_own(axes, own)
    for place, marker in markers.items():
        start = [line for line in own if (line["layers"], line["depth"]) == place]
        for kind, colour in zip(_TITLES, plt.cm.tab10(range(len(_TITLES))), strict=True):
            of_kind = (kind, *place)
            chosen = [li for li in defended if (li["kind"], li["layers"], li["depth"]) == of_kind]
            _draw_line(axes, chosen, start, {"color": colour, "marker": marker})
    for (layers, channels), marker in markers.items() if len(markers) > 1 else ():
        label = f"{layers} layers, {channels} ch."
        axes.plot([], [], color="0.2", marker=marker, linestyle="none", label=label)
    axes.set_xlabel("privacy loss: mean PSNR of the strongest attacker, dB (left is more private)")
    axes.set_ylabel("accuracy of the cloud NN on test images, %")
    axes.set_title("Defences against PrivyNet's own trade-off; bars span the draws", size=11)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # A kind has a line per topology: it is named once.
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    options = {"loc": "outside right center", "frameon": False, "fontsize": 9}
    figure.legend(named.values(), named.keys(), **options)
    return plots.as_png(figure)


def _draw_own(axes: plt.Axes, own: Sequence[Mapping[str, Any]]) -> None:
    points = [Point(line["psnr_db_mean"], 100 * line["accuracy"]) for line in own]
    if points:
        best = zip(*frontier(points), strict=True)
        axes.plot(*best, color=_GREY, linewidth=6, alpha=0.3, label="the best of these")
    style = {"color": _GREY, "marker": "o", "markersize": 4, "elinewidth": 0.8, "linestyle": "none"}
    for point, line in zip(points, own, strict=True):
        axes.errorbar(*point, **_bars(line), **style, label="no defence:\nlayers/channels")
        axes.annotate(
            f"{line['layers']}/{line['depth']}",
            point,
            xytext=(5, 5),
            textcoords="offset points",
            size=6.5,
            color=_GREY,
        )


def _draw_line(
    axes: plt.Axes,
    lines: Sequence[Mapping[str, Any]],
    start: Sequence[Mapping[str, Any]],
    style: Mapping[str, Any],
) -> None:
    """Draws a defence from the undefended topology on, the attacker doing worse and worse."""
    if not lines:
        return
    ordered = [*start, *sorted(lines, key=lambda line: -line["psnr_db_mean"])]
    points = [(line["psnr_db_mean"], 100 * line["accuracy"]) for line in ordered]
    axes.plot(*zip(*points, strict=True), color=style["color"], alpha=0.6, linewidth=1.3)
    edges = {"markersize": 6, "markeredgecolor": "white", "elinewidth": 0.8, "linestyle": "none"}
    for line in lines:
        point, label = (line["psnr_db_mean"], 100 * line["accuracy"]), _TITLES[line["kind"]]
        axes.errorbar(*point, **_bars(line), **style, **edges, label=label)


def _bars(line: Mapping[str, Any]) -> dict[str, float]:
    return {"xerr": line["psnr_db_half_range"], "yerr": 100 * line["accuracy_half_range"]}
