"""A characterisation that is still running, looked at again and again. `experiments.report` asks.

It reads what `experiments.characterize` keeps, so that it may run on another machine that sees the
work directory, and either may be stopped without the other.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from privynet_jax import ResultStore
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.work_directory import REFERENCES

EVERY = 10.0  # seconds between two looks, and after which an open page comes back


class Stand(NamedTuple):
    """What is there of a characterisation."""

    results: list[CellResult]
    missing: int  # cells
    finished: bool  # with all tables


def stands(store: ResultStore, config: Mapping[str, Any], every: float) -> Iterator[Stand]:
    """Yields what is there whenever something is new, until all is; it waits for the first cell.

    All is there once every cell and the references are, and a look later nothing has changed:
    tables come last.

    Args:
        store: of the work directory.
        config: its settings.
        every: seconds between two looks.

    Raises:
        UserError: a cell is damaged or of another version.
    """
    seen: dict[Path, int] = {}
    while True:
        found = _files(store.workdir)
        results, missing = store.present_results(config)
        settled = found == seen and not missing and (store.workdir / REFERENCES).exists()
        if results and (settled or found != seen):
            yield Stand(results, len(missing), settled)
        if settled:
            return
        seen = found
        time.sleep(every)


def _files(workdir: Path) -> dict[Path, int]:
    """Cells and tables, with the time of their last change."""
    return {
        path: path.stat().st_mtime_ns
        for pattern in ("cells/*.json", "*.csv")
        for path in workdir.glob(pattern)
    }
