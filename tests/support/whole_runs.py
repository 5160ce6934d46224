"""Runs that are compared table by table."""

import csv

from support import tiny_runs

LAYERS, DEPTHS = (2, 4), (2, 3)


def config_in(folder, data_dir, **changes):
    return tiny_runs.settings(folder, data_dir, **{"depths": DEPTHS, "draws": 1, **changes})


def table(workdir, name):
    """A table's rows as text, without the one column that is a time."""
    with (workdir / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in rows]


def all_tables(workdir):
    return {name: table(workdir, f"{name}.csv") for name in ("results", "attacks", "reference")}
