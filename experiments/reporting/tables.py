"""The tables of a report: of the cells' results, and of whatever CSV other commands left.

The template of `experiments.report` asks for them; all is text, as people read it.
"""

import collections
import csv
import dataclasses
import functools
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.summaries import DrawSummary, Spread
from privynet_jax.results.text_tables import restored

# Tables with more rows are shown folded; rows beyond the second number are left to the file.
_OPEN, _MOST = 24, 500
# Tables with more columns than a sheet of paper takes are set otherwise on it.
_SHEET = 10
_LONGER = "PSNR with ten times the training, dB"
_NONE = "-"
_NUMBER = re.compile(r"[-+]?(\d[\d.,]*|inf|nan)([eE][-+]?\d+)?( ?%)?( ?[±(][^a-z]*)?|")
_WORDS = {
    **{"psnr": "PSNR", "ssim": "SSIM", "auc": "AUC", "tpr": "TPR", "fpr": "FPR", "num": ""},
    **{f"p{share}": f"{share} %" for share in (5, 25, 50, 75, 95, 99)},
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first `heads` columns are headings of rows."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: int = 1

    @property
    def is_long(self) -> bool:
        """Whether it is better folded."""
        return len(self.rows) > _OPEN

    @property
    def is_wide(self) -> bool:
        """Whether paper is too narrow for it."""
        return len(self.columns) > _SHEET

    @functools.cached_property  # asked for by every cell
    def numeric(self) -> tuple[bool, ...]:
        """For every column whether it holds numbers, which are aligned on the right."""
        of_columns = zip(*self.rows, strict=True)
        return tuple(
            all(text == _NONE or _NUMBER.fullmatch(text) for text in column)
            for column in of_columns
        )


def settings_table(name: str, caption: str, summaries: Iterable[DrawSummary]) -> Table:
    """Returns a row per (layers, depth, selection): both numbers, and what leaves the device."""
    columns = ("layers", "channels", "selection", "accuracy, %", "balanced, %", "PSNR, dB")
    columns += (_LONGER, "best rebuilt image, dB", "SSIM", "released, KiB")
    rows = [
        (
            *_accuracies(summary),
            ranged(summary.psnr_db),
            _longer(summary),
            f"{max(cell.row()['psnr_db_max'] for cell in summary.cells):.1f}",
            f"{summary.ssim.mean:.2f}",
            _released(summary),
        )
        for summary in summaries
    ]
    return Table(name, caption, columns, tuple(rows), heads=3)


def everything(summaries: Sequence[DrawSummary]) -> Table:
    """Returns a row per setting with each attacker and the images that are rebuilt best.

    Means over draws of channels, and their range; an attacker who was not tried on a setting has
    no number there.
    """
    cells = [cell for summary in summaries for cell in summary.cells]
    names = dict.fromkeys(attack.attacker for cell in cells for attack in cell.attacks)
    columns = ("layers", "channels", "selection", "accuracy, %", "balanced, %")
    columns += (*(f"{name}: PSNR, dB" for name in names), _LONGER)
    columns += ("95 % of images under, dB", "best rebuilt image, dB")
    columns += ("SSIM", "95 % of images under, SSIM", "released, KiB")
    rows = [
        (
            *_accuracies(summary),
            *(_reached(summary, name) for name in names),
            _longer(summary),
            *(_of_rows(summary, name, 1) for name in ("psnr_db_p95", "psnr_db_max")),
            *(_of_rows(summary, name, 2) for name in ("ssim_mean", "ssim_p95")),
            _released(summary),
        )
        for summary in summaries
    ]
    caption = (
        "All settings, over test images: means over draws of channels, and their range. A cell's "
        "privacy loss is its strongest attacker's; what 95 % of images stay under, and the image "
        "that is rebuilt best, are of whoever does most there."
    )
    return Table("settings", caption, columns, tuple(rows), heads=3)


def attackers(results: Sequence[CellResult]) -> Table:
    """Returns a row per attacker and a column per number of layers: mean PSNR over the cells."""
    layers = sorted({(result.num_layers, result.layer) for result in results})
    losses = collections.defaultdict(list)
    for result in results:
        for attack in result.attacks:
            loss = (result.num_layers, attack.psnr_db.mean)
            losses[attack.attacker, attack.knowledge].append(loss)
    wins = collections.Counter((r.strongest.attacker, r.strongest.knowledge) for r in results)
    rows = []
    for attacker, found in losses.items():
        of_layers = [[loss for number, loss in found if number == m] for m, _ in layers]
        means = (f"{np.mean(values):.1f}" if values else _NONE for values in of_layers)
        rows.append((*attacker, f"{wins[attacker]} of {len(found)}", *means))
    return Table(
        "attackers",
        "Attackers side by side: mean PSNR in dB over test images and cells, by number of local "
        "layers. A cell's privacy loss is its strongest attacker's.",
        ("attacker", "knows", "strongest in", *(f"{m}: {layer}" for m, layer in layers)),
        tuple(rows),
    )


def costs(results: Sequence[CellResult], image_size: int) -> Table:
    """Returns a row per (layers, depth): what the device computes, holds and sends per image."""
    raw = 3 * image_size**2
    cells = {(r.num_layers, r.depth): r for r in results}
    rows = []
    for _, r in sorted(cells.items()):
        macs, release = r.cost["local_macs"] / 1e6, r.cost["release_bytes"]
        held = (r.cost[name] / 2**10 for name in ("local_param_bytes", "local_activation_bytes"))
        texts = (f"{macs:,.1f}", *(f"{kib:,.0f}" for kib in held))
        texts += (f"{release / 2**10:,.1f}", f"{release / raw:,.1f}")
        rows.append((f"{r.num_layers}: {r.layer}", str(r.depth), *texts))
    caption = (
        "Cost of the local NN for one image. MACs are multiply-accumulates; parameters, "
        "activations (the most held at once) and the release are counted as float32. The last "
        "column compares the release with the image's own bytes, uncompressed."
    )
    columns = ("layers", "channels", "million MACs", "parameters, KiB", "activations, KiB")
    columns += ("released, KiB", "times the image")
    return Table("cost", caption, columns, tuple(rows), heads=2)


def of_csv(path: Path, caption: str) -> Table:
    """Returns any CSV as a table, numbers rounded; a column of channels is left out.

    The ends of a number's interval, columns x_low and x_high, stand in brackets behind x.
    """
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error):
        lines = []
    if len(lines) < 2 or {len(line) for line in lines} != {len(lines[0])} or not lines[0]:
        raise damaged(path, "table with a heading and rows")
    names, *lines = lines
    ends = {name: (f"{name}_low", f"{name}_high") for name in names}
    ends = {name: both for name, both in ends.items() if set(both) <= set(names)}
    hidden = {"channels"}.union(*ends.values())
    shown = [name for name in names if name not in hidden]
    rows = []
    for line in lines[:_MOST]:
        texts = dict(zip(names, map(_rounded, map(restored, line)), strict=True))
        for name, both in ends.items():
            if texts[name]:
                texts[name] += f" ({', '.join(texts[end] for end in both)})"
        rows.append(tuple(texts[name] for name in shown))
    if ends:
        caption += " Intervals are in brackets."
    if len(lines) > _MOST:
        caption += f" These are the first {_MOST} of {len(lines)} rows."
    words = itertools.takewhile(lambda text: not _NUMBER.fullmatch(text), rows[0])
    columns, heads = tuple(map(_heading, shown)), max(1, len(list(words)))
    return Table(f"file-{path.stem}", caption, columns, tuple(rows), heads)


def damaged(path: Path, kind: str) -> UserError:
    """Returns the refusal of what another command wrote."""
    remedy = "delete it, or have it made anew by the command that wrote it"
    return UserError(f"{path} is damaged: it is no {kind}; {remedy}")


def _heading(name: str) -> str:
    """A column's name in words: psnr_db_mean is "PSNR mean, dB"."""
    if "_" not in name:
        return _WORDS.get(name, name)
    words = name.split("_")
    unit = ", dB" if "db" in words else ""
    texts = (_WORDS.get(word, word) for word in words if word != "db")
    return " ".join(filter(None, texts)) + unit


def _rounded(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return _NONE
    if re.fullmatch(r"[-+]?\d+", text):
        return text
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def place(summary: DrawSummary) -> tuple[str, str, str]:
    """Returns layers, channels and selection of a setting, as every table names it."""
    first = summary.cells[0]
    return f"{first.num_layers}: {first.layer}", str(first.depth), first.selection


def _accuracies(summary: DrawSummary) -> tuple[str, ...]:
    balanced = f"{100 * summary.balanced_accuracy.mean:.1f}"
    return (*place(summary), ranged(summary.accuracy, 100), balanced)


def _longer(summary: DrawSummary) -> str:
    return f"{summary.psnr_db_limit.mean:.1f}" if summary.psnr_db_limit else _NONE


def _released(summary: DrawSummary) -> str:
    return f"{summary.cells[0].cost['release_bytes'] / 2**10:.1f}"


def _reached(summary: DrawSummary, attacker: str) -> str:
    """Mean PSNR of one attacker."""
    own = [a for cell in summary.cells for a in cell.attacks if a.attacker == attacker]
    return ranged(Spread.of([attack.psnr_db.mean for attack in own])) if own else _NONE


def _of_rows(summary: DrawSummary, column: str, digits: int) -> str:
    return ranged(Spread.of([cell.row()[column] for cell in summary.cells]), digits=digits)


def ranged(spread: Spread, factor: float = 1.0, digits: int = 1) -> str:
    """Returns the mean, and where draws differ their range."""
    ends = (f"{factor * v:.{digits}f}" for v in (spread.mean, spread.least, spread.greatest))
    mean, least, greatest = ends
    return mean if least == greatest else f"{mean} ({least}-{greatest})"
