"""`experiments.benchmark --accelerator`: parts by name, each in a process of its own."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import cli
from experiments.benchmarking.accelerators import attacks, numbers, speeds, ways
from experiments.benchmarking.accelerators.runner import (
    Part,
    Settings,
    run_all,
    run_part,
)
from privynet_jax.errors import UserError
from privynet_jax.results.cells import check_values

PARTS: Mapping[str, Part] = {
    part.__name__: part
    for part in (
        numbers.numbers,
        speeds.extraction,
        ways.cells,
        attacks.precision,
        speeds.torch,
        attacks.grid,
    )
}


def run(
    folder: Path,
    scratch: Path,
    packed: Path | None,
    parts: Sequence[str],
    *,
    quick: bool,
    minutes: float,
    again: bool,
) -> None:
    """Runs parts: a single one here, several in processes of their own."""
    check_values("--parts", parts)
    if set(parts) - set(PARTS):
        raise UserError(
            f"--parts={','.join(parts)}; with --accelerator allowed are {', '.join(PARTS)}"
        )
    if len(parts) == 1:
        cli.use_cpu_cores(at_most=1)
        stop = time.monotonic() + 60 * minutes
        settings = Settings(folder, scratch, packed, quick, stop)
        run_part(settings, parts[0], PARTS[parts[0]], again)
        return
    given = [sys.executable, "-m", "experiments.benchmark", "--accelerator"]
    given += [f"--out={folder}", f"--cache_dir={scratch}"]
    given += [f"--packed={packed}"] if packed else []
    given += ["--quick"] * quick + ["--again"] * again
    settings = Settings(folder, scratch, packed, quick)
    run_all(settings, parts, minutes, given)
