"""Where to cut: does the spread within classes foretell accuracy and privacy loss?

    python -m experiments.where_to_cut --workdir=runs/quickstart

Of every cell of a finished characterisation it takes how much of the representations' spread lies
within classes (Golden Partition Zone, arXiv:2506.15412): one number that needs no training. Prints
it by layer beside what was measured, with rank correlations over all cells and over those of one
depth, and writes cuts.csv, one row per cell, in the work directory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # finds its own parts when they are used

from experiments import cli
from experiments.comparing.ground import reopened
from privynet_jax.platform.progress import Bar
from privynet_jax.results.text_tables import aligned
from privynet_jax.selection.class_spread import within_share

cli.key_flags("workdir weights cache_dir data_dir skip_unreadable sixteen_bit_max fit dicom_window")
_SHARE = "within_classes"
# What the number may foretell, as columns of results.csv.
_MEASURED = {"accuracy": "accuracy", "PSNR": "psnr_db_mean"}


def main() -> None:
    cli.use_cpu_cores()
    found, rows = reopened(), []
    labels = found.parts.target.labels
    for result in Bar(found.results, "spread of", unit="cell", delay=1):
        share = within_share(found.scenario(result).stored("target"), labels)
        measured = {column: result.row()[column] for column in _MEASURED.values()}
        rows.append({**result.identity(), _SHARE: share, **measured})
    found.store.write_csv("cuts.csv", rows)
    print(as_text(rows))
    print(f"cuts.csv is in {found.store.workdir}.")


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line per layer, and how far the number orders cells as measurements do."""
    lines = []
    for layer in dict.fromkeys(row["num_layers"] for row in rows):
        mine = [row for row in rows if row["num_layers"] == layer]
        shares = [100 * row[_SHARE] for row in mine]
        lines.append(
            {
                "layers": f"{layer:2d} {mine[0]['layer']}",
                "cells": len(mine),
                "spread within classes %": f"{np.mean(shares):.1f} "
                f"({min(shares):.1f}-{max(shares):.1f})",
                "accuracy %": f"{100 * np.mean([row['accuracy'] for row in mine]):.1f}",
                "PSNR dB": f"{np.mean([row['psnr_db_mean'] for row in mine]):.1f}",
            }
        )
    told = [f"{name}: {_correlations(rows, column)}" for name, column in _MEASURED.items()]
    return f"{aligned(lines)}\nRank correlation (Spearman) of the spread within classes with\n" + (
        "\n".join(f"  {each}" for each in told)
    )


def _correlations(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Over all cells, and over those of one depth."""
    told = [f"{_spearman(rows, column)} over all {len(rows)} cells"]
    for depth in sorted({row["depth"] for row in rows}):
        alike = [row for row in rows if row["depth"] == depth]
        told.append(f"{_spearman(alike, column)} at depth {depth}")
    return ", ".join(told)


def _spearman(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    shares, values = ([row[name] for row in rows] for name in (_SHARE, column))
    if min(len(set(shares)), len(set(values))) < 2:
        return "none"  # of one value there is no order
    return f"{scipy.stats.spearmanr(shares, values).statistic:+.2f}"


if __name__ == "__main__":
    cli.run(main)
