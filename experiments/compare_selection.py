"""Which way of choosing channels is worth it: accuracy and privacy loss of each, with intervals.

    python -m experiments.characterize --flagfile=experiments/flags/selection.flags
    python -m experiments.compare_selection --workdir=runs/selection

Reads a work directory in which every selection drew channels for the same layers and depths. Prints
and writes two comparisons: at equal (layers, depth), and at equal limits of privacy loss, where
each selection may use whichever layers and depth suit it best. Writes selection.csv,
selection_limits.csv and selection.png there.

A number has two intervals: what other draws would change follows the sign ±, by Student's and
Welch's t, and what other sources of pictures would change stands in brackets, by the bootstrap. A
difference is taken picture by picture before sources are resampled.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.picture_values import PictureValues
from experiments.reporting import plots
from experiments.reporting.plots import plt
from privynet_jax import ResultStore, UserError
from privynet_jax.backbone.topology import DIRECT, METHODS
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.statistics import (
    CONFIDENCE,
    Interval,
    student_mean,
    welch_difference,
)
from privynet_jax.results.text_tables import aligned, bracketed

cli.key_flags("workdir")
_BASELINE = flags.DEFINE_enum(
    "baseline", "both", METHODS, "What the others are compared with; both is PrivyNet's."
)
_LIMITS = 6


@dataclasses.dataclass(frozen=True)
class Option:
    """The draws of one selection at one (layers, depth); of direct, trainings of one subset."""

    num_layers: int
    layer: str
    depth: int
    selection: str
    cells: tuple[CellResult, ...]

    def values(self, column: str) -> list[float]:
        """Returns a column of results.csv, one number per draw; accuracies in percent."""
        return [_factor(column) * cell.row()[column] for cell in self.cells]


def main() -> None:
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    options, found = options_of(store.grid_results(config)), config["selections"]
    if len(found) < 2:
        needed = "at least two are needed; characterise with --selections=random,both,direct"
        raise UserError(f"{store.workdir} has the one selection {found[0]}; {needed}")
    if _BASELINE.value not in found:
        others = f"but {', '.join(found)}; give one of those as --baseline"
        raise UserError(f"{store.workdir} has no selection {_BASELINE.value}, {others}")
    pictures = PictureValues.of(store, config)
    at_equal_size = compared(options, _BASELINE.value, pictures)
    at_equal_limits = limited(options, pictures)
    store.write_csv("selection.csv", at_equal_size)
    store.write_csv("selection_limits.csv", at_equal_limits)
    write_atomically(store.workdir / "selection.png", _picture(options))
    print(aligned(at_equal_size), aligned(at_equal_limits), sep="\n\n")
    print(
        f"Means over draws of test images' numbers, ± half a {100 * CONFIDENCE:.0f} % confidence "
        "interval over draws, and in brackets one over the sources of the images; differences are "
        f"to the selection {_BASELINE.value}. Draws of {DIRECT} are trainings with the same "
        "channels, so its intervals over draws are over those alone. Limits are kept "
        "on validation images, so test images may exceed them; accuracy within them is balanced. "
        f"selection.csv, selection_limits.csv and selection.png are in {store.workdir}."
    )


def options_of(results: Sequence[CellResult]) -> list[Option]:
    """Returns the draws of every (layers, depth, selection), selections in the methods' order."""
    draws = collections.defaultdict(list)
    for r in results:
        draws[r.num_layers, r.layer, r.depth, r.selection].append(r)
    options = [Option(*place, tuple(cells)) for place, cells in draws.items()]
    return sorted(options, key=lambda o: (o.num_layers, o.depth, METHODS.index(o.selection)))


def compared(
    options: Sequence[Option], baseline: str, pictures: PictureValues
) -> list[dict[str, str | int]]:
    """Returns a row per option, with its differences to the baseline of its (layers, depth)."""
    baselines = {(o.num_layers, o.depth): o for o in options if o.selection == baseline}
    rows: list[dict[str, str | int]] = []
    for option in options:
        row: dict[str, str | int] = {
            "layers": f"{option.num_layers} {option.layer}",
            "depth": option.depth,
            "selection": option.selection,
            "draws": len(option.cells),
        }
        theirs = baselines.get((option.num_layers, option.depth))
        for title, (column, digits) in _COLUMNS.items():
            ours = option.values(column)
            over_sources = pictures.interval(option.cells, column)
            row[title] = _both(student_mean(ours), over_sources, column, digits)
            row[f"difference, {title}"] = ""
            if theirs not in (None, option):
                difference = welch_difference(ours, theirs.values(column))
                over_sources = pictures.difference(option.cells, theirs.cells, column)
                row[f"difference, {title}"] = _both(difference, over_sources, column, digits)
        rows.append(row)
    return rows


def _both(over_draws: Interval, over_sources: Interval, column: str, digits: int = 1) -> str:
    """A number with its interval over draws, and that over sources, in the column's units."""
    ends = (_factor(column) * end for end in (over_sources.low, over_sources.high))
    return bracketed(over_draws.plus_minus(digits), *(f"{end:.{digits}f}" for end in ends))


def _factor(column: str) -> float:
    """By which a column of results.csv is multiplied: accuracies are shown in percent."""
    return 100 if column.endswith("accuracy") else 1


def limited(options: Sequence[Option], pictures: PictureValues) -> list[dict[str, str]]:
    """Returns a row per limit of mean PSNR: what each selection reaches within it.

    Each selection's layers and depth are chosen as plans are, by balanced accuracy on validation
    images; that on test images is reported.
    """
    losses = [float(np.mean(o.values("validation_psnr_db_mean"))) for o in options]
    rows = []
    for limit in np.linspace(min(losses), max(losses), _LIMITS + 1)[1:]:
        within = {option.selection: [] for option in options}
        for option, loss in zip(options, losses, strict=True):
            if loss <= limit + 1e-9:
                within[option.selection].append(option)
        told = {
            name: _described(mine, pictures) if mine else "none" for name, mine in within.items()
        }
        rows.append({"PSNR at most": f"{limit:.1f} dB", **told})
    return rows


def _described(options: Sequence[Option], pictures: PictureValues) -> str:
    best = max(options, key=lambda o: float(np.mean(o.values("validation_balanced_accuracy"))))
    column, loss = "balanced_accuracy", np.mean(best.values("psnr_db_mean"))
    over_sources = pictures.interval(best.cells, column)
    told = _both(student_mean(best.values(column)), over_sources, column)
    return f"{told} % at {loss:.1f} dB, layers {best.num_layers}, depth {best.depth}"


def _picture(options: Sequence[Option]) -> bytes:
    """A panel per number of layers: colour tells the selection, size the depth, bars intervals."""
    layers = sorted({(o.num_layers, o.layer) for o in options})
    shapes = plots.marker_shapes(option.selection for option in options)
    styles = {m: {"color": f"C{METHODS.index(m)}", "marker": shapes[m]} for m in shapes}
    size = {"figsize": (1.6 + 3.4 * len(layers), 3.9), "layout": "constrained"}
    figure, panels = plt.subplots(1, len(layers), squeeze=False, sharey=True, **size)
    for axes, (num_layers, layer) in zip(panels[0], layers, strict=True):
        for option in (o for o in options if o.num_layers == num_layers):
            columns = {"xerr": "psnr_db_mean", "yerr": "accuracy"}
            means = {bar: student_mean(option.values(name)) for bar, name in columns.items()}
            bars = {name: np.nan_to_num(mean.margin) for name, mean in means.items()}
            x, y = (mean.value for mean in means.values())
            plots.draw_point(axes, x, y, depth=option.depth, **styles[option.selection], **bars)
        axes.set_title(f"{num_layers}: {layer}", size=10)
        axes.set_xlabel("privacy loss: mean PSNR, dB")
        plots.tidy(axes)
    panels[0, 0].set_ylabel("accuracy on test images, %")
    handles = plots.legend_handles(styles, [o.depth for o in options])
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return plots.as_png(figure)


# Title -> column of results.csv, digits shown.
_COLUMNS = {
    "accuracy %": ("accuracy", 1),
    "balanced %": ("balanced_accuracy", 1),
    "PSNR dB": ("psnr_db_mean", 1),
    "SSIM": ("ssim_mean", 2),
}


if __name__ == "__main__":
    cli.run(main)
