"""The table and the picture of `compare_knowledge`, from one row per draw and attacker.

print(as_text(rows))
write_atomically(folder / "knowledge.png", picture(rows))
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from experiments.reporting import plots
from privynet_jax.attacks.base import NETWORK, PAIRS
from privynet_jax.results.statistics import CONFIDENCE, Interval, student_mean
from privynet_jax.results.text_tables import aligned

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_Rows = Sequence[Mapping[str, Any]]
_Place = tuple[int, int]  # numbers of layers and of released channels
_FEWER = re.compile(r"(\d+) pairs")


def as_text(rows: _Rows) -> str:
    """Returns means over draws, and what is lost against pairs, for people to read."""
    table = [_summary(group, rows) for group in _groups(rows)]
    note = (
        f"Means over draws of test images' numbers, ± half a {100 * CONFIDENCE:.0f} % confidence "
        "interval; the loss is in mean PSNR against an attacker with all pairs, draw by draw. "
        "Last: channels found by the best guess, those among its five likeliest, and how sure the "
        "attacker is."
    )
    return f"{aligned(table)}\n{note}"


def lost_db(rows: _Rows, place: _Place, knowledge: str) -> Interval:
    """Returns how much worse an attacker is than one with all pairs, in dB, paired by draw.

    Args:
        rows: of all topologies.
        place: numbers of layers and of released channels.
        knowledge: the attacker's, as the rows call it.
    """
    theirs = _values(rows, place, PAIRS)
    ours = _values(rows, place, knowledge)
    return student_mean([theirs[draw] - ours[draw] for draw in ours])


def picture(rows: _Rows) -> bytes:
    """Returns a PNG: bars by knowledge, and curves over the number of pairs."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 5.4), layout="constrained", width_ratios=(1.5, 1), sharey=True
    )
    titles = _titles(rows)
    _draw_bars(left, rows, titles)
    _draw_curves(right, rows, titles)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    lowest = min(mean.value for mean in (_mean(group, "psnr_db_mean") for group in _groups(rows)))
    left.set_ylim(bottom=max(0, np.floor(lowest) - 2))
    left.set_ylabel("privacy loss: mean PSNR on test images, dB")
    return plots.as_png(figure)


def _draw_bars(axes: plt.Axes, rows: _Rows, titles: Mapping[_Place, str]) -> None:
    kinds = [kind for kind in dict.fromkeys(row["knowledge"] for row in rows) if not _fewer(kind)]
    width = 0.84 / len(kinds)
    colours = plt.cm.tab10(range(len(kinds)))
    for index, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
        means = [student_mean(list(_values(rows, place, kind).values())) for place in titles]
        axes.bar(
            np.arange(len(titles)) + (index - (len(kinds) - 1) / 2) * width,
            [mean.value for mean in means],
            width * 0.92,
            yerr=np.nan_to_num([mean.margin for mean in means]),
            color=colour,
            label=kind.replace(NETWORK, "network"),
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(titles)), list(titles.values()))
    axes.set_xlabel("number of layers: last layer, released channels")
    axes.set_title("What the attacker knows", size=11)
    axes.legend(fontsize=8, frameon=False)


def _draw_curves(axes: plt.Axes, rows: _Rows, titles: Mapping[_Place, str]) -> None:
    colours = plt.cm.viridis(np.linspace(0, 0.88, len(titles)))
    for (place, title), colour in zip(titles.items(), colours, strict=True):
        mine = [row for row in rows if _place(row) == place]
        groups = [g for g in _groups(mine) if g[0]["knowledge"] == PAIRS or _fewer(_kind(g))]
        groups.sort(key=lambda group: group[0]["images"])
        means = [_mean(group, "psnr_db_mean") for group in groups]
        axes.errorbar(
            [group[0]["images"] for group in groups],
            [mean.value for mean in means],
            yerr=np.nan_to_num([mean.margin for mean in means]),
            color=colour,
            marker="o",
            elinewidth=1,
            capsize=2,
            label=title,
        )
    axes.set_xscale("log")
    axes.set_xlabel("pairs that the attacker owns")
    axes.set_title("How many pairs it has", size=11)
    axes.legend(fontsize=8, frameon=False)


def _summary(group: _Rows, rows: _Rows) -> dict[str, str | int]:
    first = group[0]
    loss = lost_db(rows, _place(first), _kind(group))
    guessed = first["found"] != ""
    columns = ("found", "found_in_5", "confidence")
    shares = [f"{100 * np.mean([row[c] for row in group]):.0f}" for c in columns if guessed]
    return {
        "layers": f"{first['layers']} {first['layer']}",
        "depth": first["depth"],
        "knowledge": _kind(group),
        "images": first["images"],
        "PSNR dB": _mean(group, "psnr_db_mean").plus_minus(),
        "p95": _mean(group, "psnr_db_p95").plus_minus(),
        "SSIM": _mean(group, "ssim_mean").plus_minus(2),
        "loss dB": "" if _kind(group) == PAIRS else loss.plus_minus(2),
        "found, in 5, confident %": ", ".join(shares),
    }


def _groups(rows: _Rows) -> list[list[Mapping[str, Any]]]:
    """Rows that differ in the draw alone."""
    groups: dict[tuple[_Place, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_place(row), row["knowledge"]), []).append(row)
    return list(groups.values())


def _values(rows: _Rows, place: _Place, knowledge: str) -> dict[int, float]:
    """Draw -> mean PSNR."""
    mine = [row for row in rows if _place(row) == place and row["knowledge"] == knowledge]
    return {row["draw"]: row["psnr_db_mean"] for row in mine}


def _place(row: Mapping[str, Any]) -> _Place:
    return row["layers"], row["depth"]


def _mean(group: _Rows, column: str) -> Interval:
    return student_mean([row[column] for row in group])


def _kind(group: _Rows) -> str:
    return group[0]["knowledge"]


def _fewer(kind: str) -> bool:
    return _FEWER.fullmatch(kind) is not None


def _titles(rows: _Rows) -> dict[_Place, str]:
    """Place -> what to call it."""
    return {_place(row): f"{row['layers']}: {row['layer']}, {row['depth']}" for row in rows}
