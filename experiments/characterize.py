"""Characterises a grid of local topologies: accuracy of the cloud NN against privacy loss.

    python -m experiments.characterize --flagfile=experiments/flags/quickstart.flags

Everything ends up in --workdir: results.csv, attacks.csv, reference.csv, tradeoff.png and
reconstructions.png. One draw of everything comes first, then the next; tables and pictures show
what is there on the way. The same command again does only what is missing. --cluster=auto has the
machines of a Ray cluster do the work.
"""

import time
from collections.abc import Sequence

from absl import flags

from experiments import cli
from experiments.reporting import plots
from privynet_jax import Characterisation, UserError, characterise
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import tell
from privynet_jax.results.cells import Cell
from privynet_jax.results.summaries import convergence_note, frontier_cells, summary_table
from privynet_jax.results.work_directory import REFERENCES

cli.key_flags(" ".join(cli.define_settings()))
_PICTURED = flags.DEFINE_list(
    "pictured", [], "Cells in reconstructions.png, such as m02_d008_r00; default: every first draw."
)


def main() -> None:
    config = cli.config_of_flags()
    of_layer = len(config.depths) * len(config.selections) * config.draws
    # On a cluster, accelerators are for the workers.
    cli.use_cpu_cores(at_most=of_layer, alone=bool(config.cluster))
    cells = config.cells()
    pictured = _pictured_names(cells)
    done = characterise(config, _Refreshed(len(cells), pictured))
    _draw(done, pictured)
    print(summary_table(done.results, done.store.read_csv(REFERENCES)))
    if config.mode == DEDICATED:
        print(convergence_note(done.results))
    else:
        print(
            f"These are estimates by the mode {config.mode}: they rank cells, and are mostly lower "
            "than what dedicated networks reach."
        )
        print(_frontier_note(done))
    print(
        f"Results and pictures are in {config.workdir}. Privacy loss is what these attackers "
        "reached on images they never saw; it bounds no other attacker."
    )


def _draw(done: Characterisation, pictured: Sequence[str]) -> None:
    plots.save_tradeoff(done.results, done.store)
    plots.save_reconstructions(done.results, done.store, done.examples, pictured)


class _Refreshed:
    """Draws what is there and says where; the first time a table is printed, too."""

    def __init__(self, cells: int, pictured: Sequence[str]) -> None:
        self._cells, self._pictured, self._begun = cells, pictured, time.monotonic()
        self._is_first = True

    def __call__(self, done: Characterisation) -> None:
        _draw(done, self._pictured)
        if self._is_first:
            tell(summary_table(done.results))
        self._is_first = False
        tell(
            f"{len(done.results)} of {self._cells} cells after "
            f"{time.monotonic() - self._begun:.0f} s: results.csv, tradeoff.png and "
            f"reconstructions.png in {done.store.workdir} show them."
        )


def _frontier_note(done: Characterisation) -> str:
    """Writes a flag file that asks for the frontier's cells alone; returns what it is for."""
    best = frontier_cells(done.results)
    path = done.store.workdir / "frontier.flags"
    write_atomically(path, f"--only={','.join(cell.name for cell in best)}\n")
    return (
        f"No other cell beats {len(best)} of them at both numbers. For dedicated networks of "
        f"those, give the same flags again, then --flagfile={path} --mode=dedicated and another "
        "--workdir."
    )


def _pictured_names(cells: Sequence[Cell]) -> list[str]:
    known, asked = [cell.name for cell in cells], _PICTURED.value
    if unknown := [name for name in asked if name not in known]:
        allowed = f"this grid's cells: {', '.join(known)}"
        raise UserError(f"--pictured names {', '.join(unknown)}; allowed are {allowed}")
    first: dict[tuple[int, int, str], str] = {}  # which --only may have left a later draw of
    for cell in cells:
        first.setdefault((cell.topology.num_layers, cell.topology.depth, cell.selection), cell.name)
    return asked or list(first.values())


if __name__ == "__main__":
    cli.run(main, continues=True)
