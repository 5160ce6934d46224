"""The table and the picture of `compare_defences`, from what was measured of each row."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax.defences.guarantees import DELTA
from privynet_jax.defences.mechanisms import Defence, Undefended
from privynet_jax.results.summaries import Point, best_accuracy, frontier
from privynet_jax.results.text_tables import aligned, bracketed
from privynet_jax.training.convergence import CONVERGED_PERCENT, not_converged

_METRICS = ("accuracy", "balanced_accuracy", "psnr_db_mean", "psnr_db_p95", "ssim_mean")
# Of means, over sources of test images.
_ENDS = ("accuracy_low", "accuracy_high", "psnr_db_low", "psnr_db_high")
_NONE = Undefended.name
# Kinds of defences, which are the lines of the picture.
TITLES = {
    "gaussian": "Gaussian noise",
    "laplace": "Laplace noise",
    "arden": "Arden",
    "dropout": "channel dropout",
    "quantise": "quantisation, nearest",
    "quantise, stochastic": "quantisation, stochastic",
}
_Lines = Sequence[Mapping[str, Any]]


class Row(NamedTuple):
    """What is measured together: draws of channels under one defence."""

    num_layers: int
    depth: int
    defence: Defence

    @property
    def title(self) -> str:
        """For people, and unique."""
        return f"layers {self.num_layers}, depth {self.depth}, {self.defence}"

    @property
    def kind(self) -> str:
        """What defences of several strengths have in common."""
        is_stochastic = getattr(self.defence, "rounding", "") == "stochastic"
        return f"{self.defence.name}, stochastic" if is_stochastic else self.defence.name


def as_table(measured: Mapping[Row, Mapping[str, Any]]) -> list[dict[str, str | int | float]]:
    """Returns a line per row, with its gain over PrivyNet's own trade-off."""
    own = [
        Point(np.mean(values["psnr_db_mean"]), np.mean(values["accuracy"]))
        for row, values in measured.items()
        if row.kind == _NONE
    ]
    table = []
    for row, values in measured.items():
        means = {name: float(np.mean(values[name])) for name in _METRICS}
        half = {name: float(np.ptp(values[name]) / 2) for name in ("accuracy", "psnr_db_mean")}
        loss = means["psnr_db_mean"]
        # The own trade-off can be steep, so that a fraction of a dB decides: once more with the
        # worst draw's loss.
        references = [best_accuracy(own, at) for at in (loss, loss + half["psnr_db_mean"])]
        gain, least = (
            "" if reference is None or row.kind == _NONE else means["accuracy"] - reference
            for reference in references
        )
        table.append(
            {
                "layers": row.num_layers,
                "depth": row.depth,
                "kind": row.kind,
                "defence": str(row.defence),
                "epsilon": values["epsilon"],
                "delta": DELTA,
                "draws": len(values["accuracy"]),
                **means,
                **{name: values[name] for name in _ENDS},
                "accuracy_half_range": half["accuracy"],
                "psnr_db_half_range": half["psnr_db_mean"],
                "attacker": values["attacker"],
                "falling_percent_per_doubling": values["falling_percent_per_doubling"],
                "gain": gain,
                "gain_at_the_worst_draw_s_loss": least,
                "train_seconds": values["train_seconds"],
            }
        )
    return table


def as_text(table: _Lines) -> str:
    """Returns the table for people to read."""
    lines = []
    for line in table:
        spread = 100 * line["accuracy_half_range"]
        accuracy = f"{100 * line['accuracy']:.1f} ±{spread:.1f}"
        loss = f"{line['psnr_db_mean']:.1f} ±{line['psnr_db_half_range']:.1f}"
        shares, decibels = (100 * line[name] for name in _ENDS[:2]), map(line.get, _ENDS[2:])
        lines.append(
            {
                **{name: line[name] for name in ("layers", "depth", "defence")},
                "epsilon": "-" if np.isinf(line["epsilon"]) else f"{line['epsilon']:.3g}",
                "accuracy % (95 %)": bracketed(accuracy, *map("{:.1f}".format, shares)),
                "balanced %": f"{100 * line['balanced_accuracy']:.1f}",
                "PSNR dB (95 %)": bracketed(loss, *map("{:.1f}".format, decibels)),
                "p95 dB": f"{line['psnr_db_p95']:.1f}",
                "SSIM": f"{line['ssim_mean']:.2f}",
                "attacker": line["attacker"],
                "falling %": f"{line['falling_percent_per_doubling']:.0f}{_flag(line)}",
                "gain": _points(line["gain"]),
                "worst": _points(line["gain_at_the_worst_draw_s_loss"]),
            }
        )
    return aligned(lines)


def convergence_note(table: _Lines) -> str:
    """Says in how many rows the privacy loss comes from an attacker who was still improving."""
    falling = [line["falling_percent_per_doubling"] for line in table if _flag(line)]
    if not falling:
        return f"The strongest attackers of all {len(table)} rows had converged."
    who = f"In {len(falling)} of {len(table)} rows, marked *, a draw's strongest attacker"
    return not_converged(who, falling)


def picture(table: _Lines) -> bytes:
    """Returns a PNG of accuracy over privacy loss, with a line per kind and place of defences."""
    own = [line for line in table if line["kind"] == _NONE]
    defended = [line for line in table if line["kind"] != _NONE]
    places = list(dict.fromkeys(map(_place, defended)))
    dashes = dict(zip(places, itertools.cycle(plots.LINES), strict=False))
    figure, axes = plt.subplots(figsize=(9.2, 5.6), layout="constrained")
    _draw_own(axes, own)
    for (place, dash), (index, kind) in itertools.product(dashes.items(), enumerate(TITLES)):
        chosen = [line for line in defended if (line["kind"], _place(line)) == (kind, place)]
        start = [line for line in own if _place(line) == place]
        _draw_line(axes, chosen, start, f"C{index}", plots.MARKERS[index], dash)
    for (layers, channels), dash in dashes.items() if len(dashes) > 1 else ():
        label = f"{layers} layers, {channels} ch."
        axes.plot([], [], color="0.2", linestyle=dash, label=label)
    axes.set(xlabel=plots.LOSS, ylabel=plots.ACCURACY)
    axes.set_title("Defences against PrivyNet's own trade-off; bars span the draws", size=11)
    plots.tidy(axes)
    # A kind has a line per topology: it is named once.
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    options = {"loc": "outside right center", "frameon": False, "fontsize": 9}
    figure.legend(named.values(), named.keys(), **options)
    return plots.as_png(figure)


def _draw_own(axes: plt.Axes, own: _Lines) -> None:
    if own:
        best = zip(*frontier([Point(*_point(line)) for line in own]), strict=True)
        axes.plot(*best, color=plots.GREY, linewidth=6, alpha=0.3, label="the best of these")
    style = {"color": plots.GREY, "marker": "o", "markersize": 4, "linestyle": "none"}
    near = {"xytext": (5, 5), "textcoords": "offset points", "size": 6.5, "color": plots.GREY}
    for line in own:
        _draw_point(axes, line, label="no defence:\nlayers/channels", **style)
        axes.annotate(f"{line['layers']}/{line['depth']}", _point(line), **near)


def _draw_line(
    axes: plt.Axes, lines: _Lines, start: _Lines, colour: str, marker: str, dash: str
) -> None:
    if not lines:
        return
    ordered = [*start, *sorted(lines, key=lambda line: -line["psnr_db_mean"])]
    points = zip(*map(_point, ordered), strict=True)
    axes.plot(*points, color=colour, linestyle=dash, alpha=0.6, linewidth=1.3)
    style = {"color": colour, "marker": marker, "markersize": 6, "markeredgecolor": "white"}
    for line in lines:
        _draw_point(axes, line, label=TITLES[line["kind"]], linestyle="none", **style)


def _draw_point(axes: plt.Axes, line: Mapping[str, Any], **style: Any) -> None:
    bars = {"xerr": line["psnr_db_half_range"], "yerr": 100 * line["accuracy_half_range"]}
    axes.errorbar(*_point(line), elinewidth=0.8, **bars, **style)


def _point(line: Mapping[str, Any]) -> tuple[float, float]:
    return line["psnr_db_mean"], 100 * line["accuracy"]


def _place(line: Mapping[str, Any]) -> tuple[int, int]:
    return line["layers"], line["depth"]


def _flag(line: Mapping[str, Any]) -> str:
    return "*" if line["falling_percent_per_doubling"] > CONVERGED_PERCENT else ""


def _points(gain: float | str) -> str:
    return gain if isinstance(gain, str) else f"{100 * gain:+.1f}"
