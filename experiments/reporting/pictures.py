"""The pictures of a report: heat maps over layers x depth, and test images beside what came back.

`experiments.report` writes them as PNG files, and its template shows them as data URIs.
"""

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.reporting import plots
from experiments.reporting.plots import plt
from experiments.reporting.tables import damaged
from privynet_jax import ResultStore, UserError, as_float, psnr_db
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.summaries import DrawSummary

# Images are shown with at most so many pixels per side: a report with hundreds of them must load.
_MOST_PIXELS = 96
_HEADER = 33  # bytes of a PNG's signature and first chunk
# Title, attribute of a summary, factor, digits, colours; the darker the more, for better or worse.
_METRICS = {
    "accuracy": ("accuracy, %", 100, 0, "Blues"),
    "psnr_db": ("privacy loss: PSNR, dB", 1, 1, "Oranges"),
    "ssim": ("privacy loss: SSIM", 1, 2, "Oranges"),
}


class Picture(NamedTuple):
    """A file's name, its content, a PNG, and what it shows, for those who do not see it."""

    name: str
    png: bytes
    alt: str

    @property
    def uri(self) -> str:
        """An address that holds it whole."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def marked(png: bytes, mark: str) -> bytes:
    """Returns a PNG with a text in it, by which a later report knows it from a user's own file."""
    text = b"tEXtSource\0" + mark.encode()
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:_HEADER] + chunk + png[_HEADER:]


class Pair(NamedTuple):
    """A test image and what the strongest attacker made of it."""

    title: str
    psnr_db: float
    original: Picture
    rebuilt: Picture


class Reconstructions(NamedTuple):
    """Best, median and worst protected image of those that were kept, and all in one picture."""

    cell: CellResult
    pairs: tuple[Pair, ...]
    sheet: Picture


def heat_maps(summaries: Sequence[DrawSummary], selection: str) -> list[Picture]:
    """Returns a heat map over layers x depth per metric; all selections' colours are alike."""
    return [_heat_map(summaries, selection, metric) for metric in _METRICS]


def _heat_map(summaries: Sequence[DrawSummary], selection: str, metric: str) -> Picture:
    title, factor, digits, colours = _METRICS[metric]
    layers = sorted({(s.cells[0].num_layers, s.cells[0].layer) for s in summaries})
    depths = sorted({s.cells[0].depth for s in summaries})
    all_values = [factor * getattr(s, metric).mean for s in summaries]
    values = np.full((len(layers), len(depths)), np.nan)
    for summary, value in zip(summaries, all_values, strict=True):
        first = summary.cells[0]
        if first.selection == selection:
            row = layers.index((first.num_layers, first.layer))
            values[row, depths.index(first.depth)] = value
    # Large letters: on a phone the picture is as wide as the screen.
    figure, axes = plt.subplots(figsize=(max(2.6, 0.75 * len(depths)), 0.7 + 0.42 * len(layers)))
    scale = plt.Normalize(min(all_values), max(max(all_values), min(all_values) + 1e-6))
    axes.imshow(values, aspect="auto", cmap=colours, norm=scale)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if scale(value) > 0.6 else "black"
        text = "" if np.isnan(value) else f"{value:.{digits}f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, size=10)
    axes.set_xticks(range(len(depths)), map(str, depths))
    axes.set_yticks(range(len(layers)), [f"{m}: {name}" for m, name in layers])
    axes.set_xlabel("released channels")
    axes.set_title(title, size=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    low, high = (f"{end:.{digits}f}" for end in (np.nanmin(values), np.nanmax(values)))
    alt = (
        f"Heat map of {title} over layers and released channels, selection {selection}: from {low} "
        f"to {high}. The table of all settings has the numbers."
    )
    return Picture(f"heatmap_{metric}_{selection}.png", plots.as_png(figure), alt)


def reconstructions(cell: CellResult, store: ResultStore, originals: np.ndarray) -> Reconstructions:
    """Shows what a cell's strongest attacker made of originals, uint8 [K, H, W, 3]."""
    attacker = cell.strongest.attacker
    rebuilt = store.load_arrays(cell.name).get(f"{attacker}_examples")
    if rebuilt is None or rebuilt.shape != originals.shape or rebuilt.dtype != np.uint8:
        path = store.workdir / "cells" / f"{cell.name}.npz"
        raise UserError(
            f"{path} lacks the reconstructions of {len(originals)} test images; delete it and run "
            "experiments.characterize again, or give --notest_images"
        )
    quality = np.asarray(psnr_db(as_float(rebuilt), as_float(originals)))
    order = np.argsort(quality, kind="stable")
    chosen = (order[0], order[(len(order) - 1) // 2], order[-1])
    shown = [[_small(images[row]) for row in chosen] for images in (originals, rebuilt)]
    pairs = []
    for title, row, original, made in zip(("best", "median", "worst"), chosen, *shown, strict=True):
        db, name = float(quality[row]), f"Test image {row + 1}"
        before = Picture("", _png(original), f"{name}: the original.")
        after = Picture("", _png(made), f"{name} as rebuilt, {db:.1f} dB.")
        pairs.append(Pair(title, db, before, after))
    pixels = np.concatenate([np.concatenate(row, axis=1) for row in shown])
    factor = max(1, 3 * _MOST_PIXELS // pixels.shape[1])
    enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    alt = "Above, originals; below, as rebuilt: best protected, median, worst protected."
    return Reconstructions(cell, tuple(pairs), Picture(f"{cell.name}.png", _png(enlarged), alt))


def of_file(path: Path, alt: str) -> Picture:
    """Returns a PNG that another command drew."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):
        raise damaged(path, "PNG") from None
    return Picture(path.name, content, alt)


def _small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return np.asarray(image)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
