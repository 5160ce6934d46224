"""Characterises a grid of local topologies: accuracy of the cloud NN against privacy loss.

    python -m experiments.characterize --flagfile=experiments/flags/quickstart.flags

Everything ends up in --workdir: results.csv, attacks.csv, reference.csv, tradeoff.png and
reconstructions.png. The same command again does only what is missing. On several machines give
--coordinator_address, --num_processes and --process_id too; a TPU pod needs none of them.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from experiments import cli
from experiments.reporting import plots
from privynet_jax import UserError, characterise
from privynet_jax.characterisation.config import DEDICATED
from privynet_jax.characterisation.run import Characterisation
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cells import Cell
from privynet_jax.results.summaries import convergence_note, frontier_cells, summary_table

cli.key_flags(" ".join(cli.define_settings()))
cli.key_flags("coordinator_address num_processes process_id")
_PICTURED = flags.DEFINE_list(
    "pictured", [], "Cells in reconstructions.png, such as m02_d008_r00; default: every draw 0."
)


def main() -> None:
    config = cli.config_of_flags()
    of_layer = len(config.depths) * len(config.selections) * config.draws
    cli.use_cpu_cores(at_most=of_layer)
    pictured = _pictured_names(config.cells())
    share = cli.joined_share(config.workdir)
    done = characterise(dataclasses.replace(config, share=share))
    if not done.complete:
        print(
            f"This process's share is done. {len(done.results)} of {len(config.cells())} cells are "
            f"in {config.workdir}; the last process to finish draws the pictures, and so does any "
            "of these commands when it is run again later."
        )
        return
    plots.save_tradeoff(done.results, done.store)
    plots.save_reconstructions(done.results, done.store, done.examples, pictured)
    print(summary_table(done.results, done.store.read_csv("reference.csv")))
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
    return asked or [cell.name for cell in cells if cell.draw == 0]


if __name__ == "__main__":
    cli.run(main, continues=True)
