r"""What do several cuts cost: of one picture, in privacy; of one cloud NN for all, in accuracy?

    python -m experiments.several_cuts --workdir=runs/story --together=m04_d016_r00+m10_d032_r00

A scheduler that moves the cut (`experiments.schedule`) releases each picture at one cut only. This
measures why: of a finished characterisation it takes cells, trains the strong attacker on pairs
with the representations of all of them side by side, and on those of each alone, for --training
times the characterisation's steps, and attacks test images. It also trains one cloud NN that
answers all of these cuts, beside the characterisation's accuracy of each. Prints a table, and
writes several_cuts.csv in the work directory. The same command again continues where it stopped.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import filled, one_by_one, reopened
from privynet_jax import Budget, Protocol, UserError, session
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.several_cuts import joined_places, joined_scene
from privynet_jax.characterisation.grid_run import cloud_of
from privynet_jax.characterisation.measure import check_converges, measure
from privynet_jax.characterisation.reopening import Reopened
from privynet_jax.images.metrics import correct
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.accuracies import of_images
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.risk_tables import scored
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.results.text_tables import aligned, bracketed
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.models.shared_cloud import CutMap, SharedCloudNN, shared_task
from privynet_jax.training.prediction import predicted
from privynet_jax.training.tasks import CLOUD
from privynet_jax.training.trainer import Course, Member, train

cli.key_flags("workdir weights cache_dir data_dir skip_unreadable sixteen_bit_max dicom_window")
cli.key_flags("training")
_TOGETHER = flags.DEFINE_list(
    "together", [], "Names of cells, as in cells/, that one picture is released at, with + between."
)
_ALL = "all of them"
_SHARED = "one cloud NN for {}"


def main() -> None:
    wished = _together()
    cli.use_cpu_cores()
    found = reopened()
    settings = {"training": cli.TRAINING.value, "grid": dict(found.settings)}
    kept = KeptRows(found.store.workdir / "several_cuts", settings)
    single = [[name] for name in dict.fromkeys(name for names in wished for name in names)]
    titled = {"+".join(names): names for names in [*single, *wished]}
    shared = {_SHARED.format("+".join(names)): names for names in wished}
    done = sum(kept.read(title) is not None for title in [*titled, *shared])
    bar = progress_bar(len(titled) + len(shared), "attacking and learning", "networks", done)
    with bar as advance, session(progress=advance):
        attacked, learnt = (
            filled(kept, of, functools.partial(one_by_one, functools.partial(measured, found)))
            for of, measured in ((titled, _attacked), (shared, _learnt))
        )
    psnr_db = {title: np.array(row["psnr_db"]) for title, row in zip(titled, attacked, strict=True)}
    right = [
        dict(zip(names, np.array(row["right"]), strict=True))
        for names, row in zip(wished, learnt, strict=True)
    ]
    rows = [row for own in zip(wished, right, strict=True) for row in _rows(found, *own, psnr_db)]
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
    ordered = (tuple(name for name in known if name in names) for names in found)
    return [list(names) for names in dict.fromkeys(ordered)]


def _attacked(found: Reopened, names: Sequence[str]) -> dict[str, list[float]]:
    """PSNR of each test image, of an attacker who has all of these cells' releases."""
    trained = found.settings["attacker"]
    steps = max(1, round(cli.TRAINING.value * trained["steps"]))
    training = Training(Budget(steps, batch_size=trained["batch_size"]))
    first, scenes = _scenes(found, names)
    scene = joined_scene(scenes) if len(scenes) > 1 else scenes[0]
    cell = Cell(scene.topology, first.draw, first.selection)
    every = np.arange(len(found.parts.test))
    protocol = Protocol(attacks=named_attacks([STRONG], training), attacked=every)
    [measured] = measure([cell], [scene], protocol, found.settings["seed"])
    return {"psnr_db": measured.attacks[STRONG]["test"]["psnr_db"].tolist()}


def _learnt(found: Reopened, names: Sequence[str]) -> dict[str, list[list[float]]]:
    """Where one cloud NN for all of these cells is right: of each cell, for each test image."""
    (first, scenes), parts, config = _scenes(found, names), found.parts, found.config
    sides = [scene.stored("target").shape[1] for scene in scenes]
    maps = itertools.starmap(CutMap, zip(sides, joined_places(scenes), strict=True))
    cloud = cloud_of(config, parts)
    network = SharedCloudNN(
        cloud.num_classes, tuple(maps), cloud.image_size, cloud.width, cloud.dtype
    )
    task = shared_task(network, parts.target.several is not None)
    joined, rows = joined_scene(scenes), np.arange(len(parts.target))
    cell = Cell(joined.topology, first.draw, first.selection)
    key, schedule = training_key(cell, found.settings["seed"]), config.cloud
    member = Member(
        key, joined.stored("target"), parts.target.answers, rows, schedule.learning_rate
    )
    [trained] = train(task, [member], Course(schedule.steps, schedule.batch_size))
    logits = predicted(task, trained.params, (), joined.stored("test"))
    check_converges("+".join(names), CLOUD, bool(np.isfinite(logits).all()))
    right = [correct(logits[:, i], parts.test.answers) for i in range(len(scenes))]
    return {"right": [of_images(np.asarray(own)).tolist() for own in right]}


def _scenes(found: Reopened, names: Sequence[str]) -> tuple[CellResult, list[Scenario]]:
    """The first cell of these names, and all of their data, in their order."""
    results = [result for result in found.results if result.name in names]
    return results[0], [found.scenario(result) for result in results]


def _rows(
    found: Reopened,
    names: Sequence[str],
    right: Mapping[str, np.ndarray],
    psnr_db: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """A row for each cell, and one for all.

    What all gain in PSNR is beyond the best of the cells; in accuracy one cloud NN for all of them
    gains on each cell's own.
    """
    sources, all_cells = found.parts.test.clusters(), "+".join(names)
    best = max(names, key=lambda name: psnr_db[name].mean())
    gain = bootstrap(psnr_db[all_cells] - psnr_db[best], mean_of, sources).columns("gain_db")
    accuracy = {name: _accuracy(found, name, own, sources) for name, own in right.items()}
    blank = dict.fromkeys(accuracy[names[0]], "")
    return [
        {
            "cells": all_cells,
            "released": _ALL if name == all_cells else name,
            "images": len(sources),
            **bootstrap(psnr_db[name], mean_of, sources).columns("psnr_db"),
            "psnr_db_p95": float(np.percentile(psnr_db[name], 95)),
            **(gain if name == all_cells else dict.fromkeys(gain, "")),
            **accuracy.get(name, blank),
        }
        for name in [*names, all_cells]
    ]


def _accuracy(
    found: Reopened, name: str, shared: np.ndarray, sources: np.ndarray
) -> dict[str, float]:
    """A cell's accuracy, by its own cloud NN and by the one for all, and what that gains."""
    own = of_images(found.store.load_arrays(name)["accuracy"])
    # Estimates score some of the images.
    rows = scored(found.parts.test.labels, len(own), found.settings["mode"])
    shared = shared[rows]
    return {
        "accuracy": float(own.mean()),
        "shared_accuracy": float(shared.mean()),
        **bootstrap(shared - own, mean_of, sources[rows]).columns("shared_gain"),
    }


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    def told(name: str, factor: int = 1) -> str:
        found = [row.get(name + end, "") for end in ("", "_low", "_high")]
        return bracketed(*(value if value == "" else f"{factor * value:.1f}" for value in found))

    return {
        "cells": row["cells"],
        "released": row["released"],
        "images": row["images"],
        "PSNR dB": told("psnr_db"),
        "beyond the best alone, dB": told("gain_db"),
        "p95": f"{row['psnr_db_p95']:.1f}",
        "accuracy %": told("accuracy", 100),
        "by one for all": told("shared_accuracy", 100),
        "gain": told("shared_gain", 100),
    }


if __name__ == "__main__":
    cli.run(main, continues=True)
