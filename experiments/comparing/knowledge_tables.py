"""The table and the picture of `compare_knowledge`, from one row per draw and attacker."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax.attacks.base import NETWORK, PAIRS
from privynet_jax.results.statistics import CONFIDENCE, Interval, student_mean
from privynet_jax.results.text_tables import aligned

_Rows = Sequence[Mapping[str, Any]]
_Place = tuple[int, int]  # numbers of layers and of released channels
_FEWER = re.compile(r"(\d+) pairs")


def as_text(rows: _Rows) -> str:
    """Returns means over draws, and what is lost against pairs, for people to read."""
    table = [_summary(group, rows) for group in _groups(rows).values()]
    note = (
        f"Means over draws of test images' numbers, ± half a {100 * CONFIDENCE:.0f} % confidence "
        "interval; the loss is in mean PSNR against an attacker with all pairs, draw by draw. "
        "Last: channels found by the best guess, those among its five likeliest, and how sure the "
        "attacker is."
    )
    return f"{aligned(table)}\n{note}"


def lost_db(rows: _Rows, place: _Place, knowledge: str) -> Interval:
    """Returns how much worse an attacker of a place is than one with all pairs, in dB, by draw."""
    ours, theirs = (
        {row["draw"]: row["psnr_db_mean"] for row in _groups(rows)[place, kind]}
        for kind in (knowledge, PAIRS)
    )
    return student_mean([theirs[draw] - ours[draw] for draw in ours])


def picture(rows: _Rows) -> bytes:
    """Returns a PNG: bars by knowledge, and curves over the number of pairs."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 5.4), layout="constrained", width_ratios=(1.5, 1), sharey=True
    )
    titles = {_place(row): f"{row['layers']}: {row['layer']}, {row['depth']}" for row in rows}
    means = {key: _mean(group, "psnr_db_mean") for key, group in _groups(rows).items()}
    kinds = [
        kind for kind in dict.fromkeys(kind for _, kind in means) if not _FEWER.fullmatch(kind)
    ]
    width = 0.84 / len(kinds)
    bars = {"capsize": 2}
    for index, kind in enumerate(kinds):
        shown = [means[place, kind] for place in titles]
        left.bar(
            np.arange(len(titles)) + (index - (len(kinds) - 1) / 2) * width,
            [mean.value for mean in shown],
            width * 0.92,
            yerr=np.nan_to_num([mean.margin for mean in shown]),
            color=f"C{index}",
            label=kind.replace(NETWORK, "network"),
            error_kw={"elinewidth": 1, **bars},
        )
    left.set_xticks(range(len(titles)), list(titles.values()))
    for (place, title), colour in zip(titles.items(), plots.colours(len(titles)), strict=True):
        fewer = sorted(
            (group[0]["images"], means[place, kind])
            for (where, kind), group in _groups(rows).items()
            if where == place and (kind == PAIRS or _FEWER.fullmatch(kind))
        )
        images, shown = zip(*fewer, strict=True)
        margins = np.nan_to_num([mean.margin for mean in shown])
        style = {"color": colour, "marker": "o", "elinewidth": 1, "label": title, **bars}
        right.errorbar(images, [mean.value for mean in shown], yerr=margins, **style)
    right.set_xscale("log")
    left.set(xlabel="number of layers: last layer, released channels")
    left.set(ylabel="privacy loss: mean PSNR on test images, dB")
    left.set(ylim=(max(0, np.floor(min(mean.value for mean in means.values())) - 2), None))
    right.set(xlabel="pairs that the attacker owns")
    for axes, title in ((left, "What the attacker knows"), (right, "How many pairs it has")):
        axes.set_title(title, size=11)
        axes.legend(fontsize=8, frameon=False)
        plots.tidy(axes)
    return plots.as_png(figure)


def _summary(group: _Rows, rows: _Rows) -> dict[str, str | int]:
    first = group[0]
    loss = lost_db(rows, _place(first), first["knowledge"])
    guessed = first["found"] != ""
    columns = ("found", "found_in_5", "confidence")
    shares = [f"{100 * np.mean([row[c] for row in group]):.0f}" for c in columns if guessed]
    return {
        "layers": f"{first['layers']} {first['layer']}",
        "depth": first["depth"],
        "knowledge": first["knowledge"],
        "images": first["images"],
        "PSNR dB": _mean(group, "psnr_db_mean").plus_minus(),
        "p95": _mean(group, "psnr_db_p95").plus_minus(),
        "SSIM": _mean(group, "ssim_mean").plus_minus(2),
        "loss dB": "" if first["knowledge"] == PAIRS else loss.plus_minus(2),
        "found, in 5, confident %": ", ".join(shares),
    }


def _groups(rows: _Rows) -> dict[tuple[_Place, str], list[Mapping[str, Any]]]:
    """Place and knowledge -> rows that differ in the draw alone."""
    groups: dict[tuple[_Place, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_place(row), row["knowledge"]), []).append(row)
    return groups


def _place(row: Mapping[str, Any]) -> _Place:
    return row["layers"], row["depth"]


def _mean(group: _Rows, column: str) -> Interval:
    return student_mean([row[column] for row in group])
