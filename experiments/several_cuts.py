r"""What does an attacker gain who sees one picture at several cuts?

    python -m experiments.several_cuts --workdir=runs/story --together=m04_d016_r00+m10_d032_r00

A scheduler that moves the cut (`experiments.schedule`) releases each picture at one cut only. This
measures why: of a finished characterisation it takes cells, trains the strong attacker on pairs
with the representations of all of them side by side, and on those of each alone, for --training
times the characterisation's steps, and attacks test images. Prints a table, and writes
several_cuts.csv in the work directory. The same command again continues where it was stopped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import filled, reopened
from privynet_jax import Budget, Protocol, UserError, session
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.several_cuts import joined_scene
from privynet_jax.characterisation.measure import measure
from privynet_jax.characterisation.reopening import Reopened
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.results.text_tables import aligned, bracketed
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.models.attackers import STRONG

cli.key_flags("workdir weights cache_dir data_dir skip_unreadable sixteen_bit_max dicom_window")
cli.key_flags("training")
_TOGETHER = flags.DEFINE_list(
    "together", [], "Names of cells, as in cells/, that one picture is released at, with + between."
)
_ALL = "all of them"


def main() -> None:
    wished = _together()
    cli.use_cpu_cores()
    found = reopened()
    settings = {"training": cli.TRAINING.value, "grid": dict(found.settings)}
    kept = KeptRows(found.store.workdir / "several_cuts", settings)
    single = [[name] for name in dict.fromkeys(name for names in wished for name in names)]
    titled = {"+".join(names): names for names in [*single, *wished]}
    done = sum(kept.read(title) is not None for title in titled)
    bar = progress_bar(len(titled), "attacking", "attacks", done)
    with bar as advance, session(progress=advance):
        attacked = filled(kept, titled, lambda missing: (_attacked(found, own) for own in missing))
    psnr_db = {title: np.array(row["psnr_db"]) for title, row in zip(titled, attacked, strict=True)}
    rows = [row for names in wished for row in _rows(found, names, psnr_db)]
    found.store.write_csv("several_cuts.csv", rows)
    print(aligned([_line(row) for row in rows]))
    print(f"several_cuts.csv is in {found.store.workdir}.")


def _together() -> list[list[str]]:
    """The sets of cells that --together names, before anything is loaded."""
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    if config.get("mechanism", NONE) != NONE:
        raise UserError(
            f"{store.workdir} is a grid under {config['mechanism']}; several cuts are attacked "
            "where devices only split; give another --workdir"
        )
    known = [result.name for result in store.grid_results(config)]
    found = [names.split("+") for names in _TOGETHER.value]
    for names in found or [[]]:
        if len({*names}) < max(2, len(names)) or not {*names} <= {*known}:
            raise UserError(
                f"--together={','.join(_TOGETHER.value)}: allowed are sets of two or more "
                f"different cells, as in {known[0]}+{known[-1]}; the names are {', '.join(known)}"
            )
    # In one order, by which rows are known again.
    return [[name for name in known if name in names] for names in found]


def _attacked(found: Reopened, names: Sequence[str]) -> dict[str, list[float]]:
    """PSNR of each test image, of an attacker who has all of these cells' releases."""
    trained = found.settings["attacker"]
    steps = max(1, round(cli.TRAINING.value * trained["steps"]))
    training = Training(Budget(steps, batch_size=trained["batch_size"]))
    results = [result for result in found.results if result.name in names]
    scenes = [found.scenario(result) for result in results]
    scene = joined_scene(scenes) if len(scenes) > 1 else scenes[0]
    cell = Cell(scene.topology, results[0].draw, results[0].selection)
    every = np.arange(len(found.parts.test))
    protocol = Protocol(attacks=named_attacks([STRONG], training), attacked=every)
    [measured] = measure([cell], [scene], protocol, found.settings["seed"])
    return {"psnr_db": measured.attacks[STRONG]["test"]["psnr_db"].tolist()}


def _rows(
    found: Reopened, names: Sequence[str], psnr_db: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each cell, and one for all; what all gain is beyond the best of the cells."""
    sources, all_cells = found.parts.test.clusters(), "+".join(names)
    best = max(names, key=lambda name: psnr_db[name].mean())
    gain = bootstrap(psnr_db[all_cells] - psnr_db[best], mean_of, sources).columns("gain_db")
    return [
        {
            "cells": all_cells,
            "released": _ALL if name == all_cells else name,
            "images": len(sources),
            **bootstrap(psnr_db[name], mean_of, sources).columns("psnr_db"),
            "psnr_db_p95": float(np.percentile(psnr_db[name], 95)),
            **(gain if name == all_cells else dict.fromkeys(gain, "")),
        }
        for name in [*names, all_cells]
    ]


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {
        told: [f"{row[name + end]:.1f}" for end in ("", "_low", "_high")] if row[name] != "" else []
        for told, name in (("PSNR dB", "psnr_db"), ("beyond the best alone, dB", "gain_db"))
    }
    return {
        "cells": row["cells"],
        "released": row["released"],
        "images": row["images"],
        **{told: bracketed(*values) if values else "" for told, values in numbers.items()},
        "p95": f"{row['psnr_db_p95']:.1f}",
    }


if __name__ == "__main__":
    cli.run(main, continues=True)
