"""The attackers that `compare_knowledge` compares, and the table and the picture of them.

What an attacker owns stands in the place of the auxiliary images.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.comparing.ground import Ground
from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax import Part
from privynet_jax.attacks.base import NETWORK, OTHER_PAIRS, PAIRS, Attack
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.public.public_layer import PublicLayer
from privynet_jax.attacks.public.substitute import ALIGNED, MIXED, RANDOM_GUESS, Substitute
from privynet_jax.platform.row_views import ChosenRows, RowView
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import CONFIDENCE, Interval, student_mean
from privynet_jax.results.text_tables import aligned

MEAN_IMAGE = "nothing: the mean image"
_Rows = Sequence[Mapping[str, Any]]
_Place = tuple[int, int]  # numbers of layers and of released channels
_FEWER = re.compile(r"(\d+) pairs")


def with_fewer(ground: Ground, number: int, count: int) -> Ground:
    """Returns the layer of this number with the first so many pairs."""
    part, rows = ground.parts.auxiliary, np.arange(count)
    stored = ChosenRows(ground.features[number].parts["auxiliary"], rows)
    return _with_pairs(ground, number, Part(part.images[rows], part.labels[rows]), stored)


def with_pairs_of(other: Ground, ground: Ground, number: int) -> Ground:
    """Returns a layer with pairs of another data set's images that the attacked device made."""
    layer, theirs = ground.features[number], other.features[number]
    stored = _Rescaled(theirs.parts["auxiliary"], layer.scales / theirs.scales)
    return _with_pairs(ground, number, other.parts.auxiliary, stored)


def _with_pairs(ground: Ground, number: int, part: Part, stored: Any) -> Ground:
    layer = ground.features[number]
    changed = dataclasses.replace(layer, parts={**layer.parts, "auxiliary": stored})
    parts = dataclasses.replace(ground.parts, auxiliary=part)
    return Ground(parts, ground.weights, {number: changed})


class _Rescaled(RowView):
    """Rows whose channels are multiplied as they are read."""

    def __init__(self, stored: Any, factors: np.ndarray) -> None:
        super().__init__(stored.shape, stored.dtype)
        self._stored, self._factors = stored, factors

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        return (self._stored[numbers] * self._factors).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attacker: its knowledge in words, the attack, and the data set with what it owns."""

    words: str
    attack: Attack
    ground: Ground

    @property
    def images(self) -> int:
        """How many it owns."""
        return len(self.ground.parts.auxiliary)


def cases(
    attack: Attack,
    counts: Sequence[int],
    number: int,
    ground: Ground,
    other: Ground | None = None,
) -> Iterator[Case]:
    """Yields all attackers of one layer: by knowledge, then by the number of pairs."""
    yield Case(MEAN_IMAGE, MeanImage(), ground)
    yield Case(PAIRS, attack, ground)
    if other:
        yield Case(OTHER_PAIRS, attack, with_pairs_of(other, ground, number))
    public = PublicLayer(ground.features[number].parts["auxiliary"])
    for guessing in (RANDOM_GUESS, MIXED, ALIGNED):
        knowing = Substitute(attack, guessing, public=public)
        yield Case(f"{NETWORK}, {guessing} guess", knowing, ground)
    if other:
        public = PublicLayer(other.features[number].parts["auxiliary"])
        words = f"{NETWORK}, {ALIGNED} guess, other pictures"
        knowing = Substitute(attack, ALIGNED, public=public)
        yield Case(words, knowing, with_pairs_of(other, ground, number))
    for count in counts:
        if count < len(ground.parts.auxiliary):
            yield Case(f"{count} pairs", attack, with_fewer(ground, number, count))


def side_by_side(
    of_layer: Sequence[Case], cells: Sequence[Cell]
) -> Iterator[tuple[Attack, list[tuple[Case, Cell]]]]:
    """Yields each attack with the cases, and the draws of one depth, that are fitted together."""
    substitutes = [case for case in of_layer if isinstance(case.attack, Substitute)]
    others = [case for case in of_layer if case not in substitutes]
    for attack in dict.fromkeys(case.attack for case in others):
        yield attack, [(case, cell) for case in others if case.attack == attack for cell in cells]
    for case in substitutes:  # one by one: each has representations of its own making in memory
        for cell in cells:
            yield case.attack, [(case, cell)]


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
    for index, (kind, hatch) in enumerate(zip(kinds, itertools.cycle(plots.HATCHES), strict=False)):
        shown = [means[place, kind] for place in titles]
        left.bar(
            np.arange(len(titles)) + (index - (len(kinds) - 1) / 2) * width,
            [mean.value for mean in shown],
            width * 0.92,
            yerr=np.nan_to_num([mean.margin for mean in shown]),
            color=f"C{index}",
            hatch=hatch,
            edgecolor="white",
            label=kind.replace(NETWORK, "network"),
            error_kw={"elinewidth": 1, **bars},
        )
    left.set_xticks(range(len(titles)), list(titles.values()))
    styles = zip(plots.layer_styles(len(titles)), itertools.cycle(plots.MARKERS), strict=False)
    for (place, title), (line, marker) in zip(titles.items(), styles, strict=True):
        fewer = sorted(
            (group[0]["images"], means[place, kind])
            for (where, kind), group in _groups(rows).items()
            if where == place and (kind == PAIRS or _FEWER.fullmatch(kind))
        )
        images, shown = zip(*fewer, strict=True)
        margins = np.nan_to_num([mean.margin for mean in shown])
        style = {**line, "marker": marker, "elinewidth": 1, "label": title, **bars}
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
