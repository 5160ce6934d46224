"""The table and the picture of `compare_mechanisms`, from what was measured of each row."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax.attacks.base import EVERYTHING, NETWORK, PAIRS
from privynet_jax.mechanisms.guarantees import DELTA
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.results.summaries import Point, best_accuracy, frontier
from privynet_jax.results.text_tables import aligned, bracketed
from privynet_jax.training.convergence import CONVERGED_PERCENT, not_converged

# What attackers have -> their class.
OF_CLASS = {PAIRS: "pairs", NETWORK: "public", EVERYTHING: "leak"}
CLASSES = tuple(OF_CLASS.values())
_NONE = Plain.name
_LOSSES = ("psnr_db_mean", "psnr_db_p95", "ssim_mean")
_KEPT = ("psnr_db_low", "psnr_db_high", "attacker", "falling_percent_per_doubling")
_OF_ATTRIBUTE = ("attribute_low", "attribute_high", "attribute_attacker")
# Kinds of mechanisms, which are the lines of the picture.
TITLES = {
    "gaussian": "Gaussian noise",
    "laplace": "Laplace noise",
    "arden": "Arden",
    "arden_trained": "Arden, queries alone",
    "dropout": "channel dropout",
    "quantise": "quantisation, nearest",
    "quantise, stochastic": "quantisation, stochastic",
    "early_exit": "adapted by an early exit",
    "nopeek": "NoPeek",
    "declustering": "declustering",
    "multidetasking": "multidetasking",
    "priphit": "PriPHiT",
    "disco": "DISCO",
    "patrol": "PATROL",
    "rotation": "rotation, queries alone",
    "quaternion": "quaternions, queries alone",
    "rmt": "RMT on pictures",
    "aes": "AES on pictures",
    "instahide": "InstaHide",
    "composed": "several together",
}
_Lines = Sequence[Mapping[str, Any]]
# The picture's end: a picture that is rebuilt better than this is there to look at.
_MOST_DB = 50.0


class Row(NamedTuple):
    """What is measured together: draws of channels, or of secrets, under one mechanism."""

    num_layers: int
    depth: int
    mechanism: Mechanism

    @property
    def title(self) -> str:
        """For people, and unique."""
        return f"layers {self.num_layers}, depth {self.depth}, {self.mechanism}"

    @property
    def kind(self) -> str:
        """What mechanisms of several strengths have in common."""
        is_stochastic = getattr(self.mechanism, "rounding", "") == "stochastic"
        return f"{self.mechanism.name}, stochastic" if is_stochastic else self.mechanism.name


def as_table(measured: Mapping[Row, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a line per row, with its gain over PrivyNet's own trade-off."""
    own = [
        Point(_strongest(values)[1], float(np.mean(values["accuracy"])))
        for row, values in measured.items()
        if row.kind == _NONE
    ]
    table = []
    for row, values in measured.items():
        strongest, loss = _strongest(values)
        accuracy = float(np.mean(values["accuracy"]))
        reference = best_accuracy(own, loss)
        line = {
            "layers": row.num_layers,
            "depth": row.depth,
            "kind": row.kind,
            "mechanism": str(row.mechanism),
            "protects": row.mechanism.protects,
            "draws": len(values["accuracy"]),
            "accuracy": accuracy,
            "accuracy_low": values["accuracy_low"],
            "accuracy_high": values["accuracy_high"],
            "accuracy_half_range": _half_range(values["accuracy"]),
            "balanced_accuracy": float(np.mean(values["balanced_accuracy"])),
            "attribute_accuracy": float(np.mean(values["attribute"])),
            **{name: values[name] for name in _OF_ATTRIBUTE},
            "strongest": strongest,
            "psnr_db_mean": loss,
            "psnr_db_half_range": _half_range(values["classes"][strongest]["psnr_db_mean"]),
            "gain": "" if reference is None or row.kind == _NONE else accuracy - reference,
            **{name: values[name] for name in ("epsilon", "local_macs", "released_values")},
            "delta": DELTA,
            "train_seconds": values["train_seconds"],
        }
        for name in CLASSES:
            found = values["classes"].get(name)
            for column in _LOSSES:
                line[f"{name}_{column}"] = "" if found is None else float(np.mean(found[column]))
            line |= {f"{name}_{c}": "" if found is None else found[c] for c in _KEPT}
        table.append(line)
    return table


def _strongest(values: Mapping[str, Any]) -> tuple[str, float]:
    """The class that rebuilds best on average over draws, and its mean PSNR in dB."""
    means = {name: np.mean(own["psnr_db_mean"]) for name, own in values["classes"].items()}
    best = max(means, key=means.get)
    return best, float(means[best])


def _half_range(values: Sequence[float]) -> float:
    return float(np.ptp(values) / 2)


def as_text(table: _Lines) -> str:
    """Returns the table for people to read."""
    lines = []
    for line in table:
        spread = 100 * line["accuracy_half_range"]
        accuracy = f"{100 * line['accuracy']:.1f} ±{spread:.1f}"
        shares = (100 * line[name] for name in ("accuracy_low", "accuracy_high"))
        lines.append(
            {
                "layers": line["layers"] or "-",
                "depth": line["depth"] if line["layers"] else "-",
                "mechanism": line["mechanism"],
                "protects": line["protects"],
                "epsilon": "-" if np.isinf(line["epsilon"]) else f"{line['epsilon']:.3g}",
                "accuracy % (95 %)": bracketed(accuracy, *map("{:.1f}".format, shares)),
                "balanced %": f"{100 * line['balanced_accuracy']:.1f}",
                "attribute % (95 %)": _told(line),
                **{f"{name} dB (95 %)": _loss(line, name) for name in CLASSES},
                "p95 dB": f"{line[line['strongest'] + '_psnr_db_p95']:.1f}",
                "by": line[f"{line['strongest']}_attacker"] + _flag(line),
                "MMACs": f"{line['local_macs'] / 1e6:.1f}",
                "values": line["released_values"],
                "gain": line["gain"] if line["gain"] == "" else f"{100 * line['gain']:+.1f}",
            }
        )
    return aligned(lines)


def _told(line: Mapping[str, Any]) -> str:
    shares = ("attribute_accuracy", "attribute_low", "attribute_high")
    return bracketed(*(f"{100 * line[name]:.1f}" for name in shares))


def _loss(line: Mapping[str, Any], name: str) -> str:
    mean = line[f"{name}_psnr_db_mean"]
    if mean == "":
        return ""
    ends = (line[f"{name}_psnr_db_{end}"] for end in ("low", "high"))
    return bracketed(f"{mean:.1f}", *map("{:.1f}".format, ends))


def convergence_note(table: _Lines) -> str:
    """Says in how many rows the privacy loss comes from an attacker who was still improving."""
    falling = [_falling(line) for line in table if _flag(line)]
    if not falling:
        return f"The strongest attackers of all {len(table)} rows had converged."
    who = f"In {len(falling)} of {len(table)} rows, marked *, a draw's strongest attacker"
    return not_converged(who, falling)


def picture(table: _Lines) -> bytes:
    """Returns a PNG of accuracy over privacy loss, with a line per kind and place of mechanisms."""
    own = [line for line in table if line["kind"] == _NONE]
    others = [line for line in table if line["kind"] != _NONE]
    places = list(dict.fromkeys(map(_place, others)))
    dashes = dict(zip(places, itertools.cycle(plots.LINES), strict=False))
    figure, axes = plt.subplots(figsize=(9.2, 5.6), layout="constrained")
    _draw_own(axes, own)
    for (place, dash), (index, kind) in itertools.product(dashes.items(), enumerate(TITLES)):
        chosen = [line for line in others if (line["kind"], _place(line)) == (kind, place)]
        start = [line for line in own if _place(line) == place]
        _draw_line(
            axes, chosen, start, f"C{index}", plots.MARKERS[index % len(plots.MARKERS)], dash
        )
    for (layers, channels), dash in dashes.items() if len(dashes) > 1 else ():
        label = f"{layers} layers, {channels} ch." if layers else "whole pictures"
        axes.plot([], [], color="0.2", linestyle=dash, label=label)
    axes.set(xlabel=plots.LOSS, ylabel=plots.ACCURACY)
    axes.set_title("Mechanisms against PrivyNet's own trade-off, by the strongest class", size=11)
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
        _draw_point(axes, line, label="the split alone:\nlayers/channels", **style)
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
        if line["psnr_db_mean"] > _MOST_DB:
            near = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right", "size": 7}
            axes.annotate(f"{line['psnr_db_mean']:.0f} dB →", _point(line), **near)


def _draw_point(axes: plt.Axes, line: Mapping[str, Any], **style: Any) -> None:
    bars = {"xerr": line["psnr_db_half_range"], "yerr": 100 * line["accuracy_half_range"]}
    axes.errorbar(*_point(line), elinewidth=0.8, **bars, **style)


def _point(line: Mapping[str, Any]) -> tuple[float, float]:
    return min(line["psnr_db_mean"], _MOST_DB), 100 * line["accuracy"]


def _place(line: Mapping[str, Any]) -> tuple[int, int]:
    return line["layers"], line["depth"]


def _falling(line: Mapping[str, Any]) -> float:
    return line[f"{line['strongest']}_falling_percent_per_doubling"]


def _flag(line: Mapping[str, Any]) -> str:
    return "*" if _falling(line) > CONVERGED_PERCENT else ""
