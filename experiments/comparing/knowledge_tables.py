"""The table and the picture of what knowledge is worth, of the rows of `compare_knowledge`.

Rows keep a draw's interval over sources, but no value per image. So the table shows the means of
the draws' ends, which is cautious: a mean of draws varies no more than they do. Differences have an
interval over draws alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.comparing.knowledge import OTHER_PICTURES, PICTURES
from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax.attacks.base import OTHER_PAIRS
from privynet_jax.results.statistics import CONFIDENCE, Interval, student_mean
from privynet_jax.results.text_tables import aligned, bracketed

_OTHERS = (OTHER_PAIRS, OTHER_PICTURES)
_Rows = Sequence[Mapping[str, Any]]
_Place = tuple[int, int]  # numbers of layers and of released channels


def as_text(rows: _Rows) -> str:
    """Returns means over draws, and differences from class `public`, for people to read."""
    table = [_summary(group, rows) for group in _groups(rows).values()]
    note = (
        f"Means over draws of the same test images' numbers, ± half a {100 * CONFIDENCE:.0f} % "
        "confidence interval over draws; in brackets, ends over the sources of the images, which "
        "are means of the draws' own. Beyond public: mean PSNR above that of class public with "
        "pictures alone, draw by draw; class leak's is what the secret draw is worth. Last: "
        "channels found by the best guess, those among its five likeliest, and how sure the "
        "attacker is."
    )
    return f"{aligned(table)}\n{note}"


def beyond_db(rows: _Rows, place: _Place, knowledge: str) -> Interval:
    """Returns by how much an attacker of a place beats class public with pictures alone, in dB."""
    ours, public = (
        {row["draw"]: row["psnr_db_mean"] for row in _groups(rows)[place, kind]}
        for kind in (knowledge, PICTURES)
    )
    return student_mean([ours[draw] - public[draw] for draw in ours])


def picture(rows: _Rows) -> bytes:
    """Returns a PNG: bars by knowledge, and curves over the number of pairs."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 5.4), layout="constrained", width_ratios=(1.4, 1), sharey=True
    )
    titles = {_place(row): f"{row['layers']}: {row['layer']}, {row['depth']}" for row in rows}
    _draw_bars(left, rows, titles)
    _draw_curves(right, rows, titles)
    means = [_mean(group, "psnr_db_mean").value for group in _groups(rows).values()]
    left.set(xlabel="number of layers: last layer, released channels")
    left.set(ylabel="privacy loss: mean PSNR on test images, dB")
    left.set(ylim=(max(0, np.floor(min(means)) - 2), None))
    right.set(xlabel="pairs that the attacker has")
    for axes, title in ((left, "What the attacker has"), (right, "How many pairs it has")):
        axes.set_title(title, size=11)
        axes.legend(
            fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3
        )
        plots.tidy(axes)
    return plots.as_png(figure)


def _draw_bars(axes: plt.Axes, rows: _Rows, titles: Mapping[_Place, str]) -> None:
    groups = _groups(rows)
    kinds = {row["knowledge"]: row for row in rows if not _some(row)}
    width = 0.84 / len(kinds)
    for index, (kind, hatch) in enumerate(zip(kinds, itertools.cycle(plots.HATCHES), strict=False)):
        shown = [_mean(groups[place, kind], "psnr_db_mean") for place in titles]
        axes.bar(
            np.arange(len(titles)) + (index - (len(kinds) - 1) / 2) * width,
            [mean.value for mean in shown],
            width * 0.92,
            yerr=[mean.margin for mean in shown],
            color=f"C{index}",
            hatch=hatch,
            edgecolor="white",
            label=": ".join(filter(None, (kinds[kind]["class"], kind))),
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(titles)), list(titles.values()))


def _draw_curves(axes: plt.Axes, rows: _Rows, titles: Mapping[_Place, str]) -> None:
    """One of class pairs and one of class public for each place, by the number of pairs."""
    named = {"pairs": ("pairs alone", "--", "white"), "public": ("public: planted", "-", None)}
    own = [row for row in rows if row["class"] in named and row["knowledge"] not in _OTHERS]
    counts = sorted({row["pairs"] for row in own})
    styles = zip(plots.layer_styles(len(titles)), itertools.cycle(plots.MARKERS), strict=False)
    for (place, title), (style, marker) in zip(titles.items(), styles, strict=True):
        colour = style["color"]
        axes.plot([], [], color=colour, marker=marker, linestyle="none", label=title)
        for kind, (_, line, inside) in named.items():
            mine = [row for row in own if _place(row) == place and row["class"] == kind]
            by_count = sorted(
                (group[0]["pairs"], _mean(group, "psnr_db_mean"))
                for group in _groups(mine).values()
            )
            axes.errorbar(
                [counts.index(count) for count, _ in by_count],
                [mean.value for _, mean in by_count],
                yerr=[mean.margin for _, mean in by_count],
                **{"color": colour, "marker": marker, "linestyle": line, "capsize": 2},
                **{"elinewidth": 1, "markerfacecolor": inside or colour},
            )
    for label, line, _ in named.values():
        axes.plot([], [], color=plots.GREY, linestyle=line, label=label)
    # Evenly spaced: there is no 0 on a logarithmic scale.
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])


def _some(row: Mapping[str, Any]) -> bool:
    """Whether an attacker has some pairs, which stands in the curves."""
    return row["knowledge"][0].isdigit() or row["knowledge"].endswith("planted")


def _summary(group: _Rows, rows: _Rows) -> dict[str, str | int]:
    first = group[0]
    beyond = beyond_db(rows, _place(first), first["knowledge"])
    guessed = first["found"] != ""
    columns = ("found", "found_in_5", "confidence")
    shares = [f"{100 * np.mean([row[c] for row in group]):.0f}" for c in columns if guessed]
    return {
        "layers": f"{first['layers']} {first['layer']}",
        "depth": first["depth"],
        "class": first["class"],
        "knowledge": first["knowledge"],
        "images": first["images"],
        "pairs": first["pairs"],
        "PSNR dB": _ranged(group, "psnr_db_mean"),
        "p95": _ranged(group, "psnr_db_p95"),
        "SSIM": _mean(group, "ssim_mean").plus_minus(2),
        "beyond public dB": "" if first["knowledge"] == PICTURES else beyond.plus_minus(2),
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


def _ranged(group: _Rows, column: str) -> str:
    """A mean over draws with its interval over them, and the mean ends of those over sources."""
    ends = (np.mean([row[f"{column}_{end}"] for row in group]) for end in ("low", "high"))
    return bracketed(_mean(group, column).plus_minus(), *(f"{end:.1f}" for end in ends))


def _mean(group: _Rows, column: str) -> Interval:
    return student_mean([row[column] for row in group])
