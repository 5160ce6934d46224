"""Measures an accelerator in parts, row by row, so that whatever ends it costs one row at most.

Each part is a JSON file in a folder, written anew after each row; what is there is not measured
again. Parts have a process each: one that crashes or runs out of memory leaves the others alone.

    settings = Settings(folder=Path("results"), scratch=Path("scratch"))
    run_all(settings, parts=["numbers", "cells"], minutes=9, command=[...])
"""

import dataclasses
import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from privynet_jax.platform.devices import environment, on_cpu
from privynet_jax.platform.files import damaged_if, write_atomically

Row = dict[str, Any]
# Part -> its share of the time, as far as it has not ended before.
SHARES: Mapping[str, float] = {
    "numbers": 1.0,
    "extraction": 1.0,
    "cells": 2.5,
    "precision": 1.5,
    "torch": 1.0,
    "grid": 3.0,
}
# A part looks at the clock between rows only; and of the whole, time to save what is in training.
_GRACE_SECONDS, _ENDING_SECONDS = 60.0, 15.0
COMPLETE = "complete"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How thoroughly, where, and until when.

    Attributes:
        folder: of the JSON files.
        scratch: of features and of the grid's work directory.
        packed: the folder that `benchmarking.pack` made, of weights and photographs; None: they are
            fetched as usual.
        quick: small settings, for trying the command.
        stop: of `time.monotonic()`, when no further row is begun.
    """

    folder: Path
    scratch: Path
    packed: Path | None = None
    quick: bool = False
    stop: float = math.inf

    @property
    def small(self) -> bool:
        """Whether sizes are those of a CPU."""
        return self.quick or on_cpu()


# Yields (name of a row, what measures it). What a row says of COMPLETE, if anything, is whether it
# is done; one that is not is measured again, which may go on where it was.
Part = Callable[[Settings], Iterator[tuple[str, Callable[[], Row]]]]


def run_all(settings: Settings, parts: Sequence[str], minutes: float, command: list[str]) -> None:
    """Runs parts in processes of their own, within so many minutes; tells of each on stdout."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    for place, part in enumerate(parts):
        left, shares = end - time.monotonic(), [SHARES[name] for name in parts[place:]]
        own = max(0.0, left - _ENDING_SECONDS) * shares[0] / sum(shares)
        begun = time.monotonic()
        print(f"{part}: at most {own / 60:.1f} minutes", flush=True)
        try:
            hard = max(1.0, min(own + _GRACE_SECONDS, left))
            given = [*command, f"--parts={part}", f"--minutes={max(own / 60, 0.01):.4f}"]
            ended = subprocess.run(given, timeout=hard, env=_environment(part)).returncode
        except subprocess.TimeoutExpired:
            ended = "stopped, its time was over"
        rows = read(settings.folder, part).get("rows", {})
        print(f"{part}: {len(rows)} rows, {time.monotonic() - begun:.0f} s, ended with {ended}")
    print(as_text(settings.folder, parts), flush=True)


def _environment(part: str) -> dict[str, str]:
    """A process's environment: JAX takes most of a GPU's memory, unless PyTorch needs some."""
    leaves = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if part == "torch" else {}
    return {**os.environ, **leaves}


def run_part(settings: Settings, name: str, part: Part, again: bool) -> None:
    """Measures the rows of a part that are not there, and writes its file after each."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    report = {} if again else read(settings.folder, name)
    rows = report.get("rows", {})
    report = {"environment": environment(), "quick": settings.quick, COMPLETE: False, "rows": rows}
    for row, measure in part(settings):
        if rows.get(row, {COMPLETE: False}).get(COMPLETE, True):
            continue
        if time.monotonic() > settings.stop:
            break
        begun = time.monotonic()
        rows[row] = _measured(measure)
        rows[row]["took_seconds"] = round(time.monotonic() - begun, 2)
        _write(settings.folder, name, report)
    else:
        report[COMPLETE] = all(row.get(COMPLETE, True) for row in rows.values())
    _write(settings.folder, name, report)


def read(folder: Path, name: str) -> dict[str, Any]:
    """Returns a part's file, empty where there is none; UserError where it is damaged."""
    path = folder / f"{name}.json"
    if not path.exists():
        return {}
    with damaged_if(path, "result of a part", ValueError, TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def as_text(folder: Path, parts: Sequence[str]) -> str:
    """Returns all rows of parts, one a line."""
    lines = []
    for part in parts:
        report = read(folder, part)
        lines += ["", f"{part}, {'complete' if report.get(COMPLETE) else 'not complete'}"]
        for name, row in report.get("rows", {}).items():
            shown = (f"{key} {_shown(value)}" for key, value in row.items())
            lines.append(f"  {name}: {', '.join(shown)}")
    return "\n".join(lines)


def _measured(measure: Callable[[], Row]) -> Row:
    """A row, or why there is none: of a size that does not fit, others still may."""
    try:
        return dict(measure())
    except Exception as error:  # whatever a machine that nobody tried may come up with
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {"error": f"{type(error).__name__} at {where}: {error}"[:500]}


def _write(folder: Path, name: str, report: dict[str, Any]) -> None:
    write_atomically(folder / f"{name}.json", json.dumps(report, indent=1) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
