"""One page that a colleague can read: what a characterisation measured, and what it assumed.

    python -m experiments.report --workdir=runs/quickstart

Writes one HTML file that needs nothing else (by default report.html in the work directory), and
beside it a folder with the pictures as PNG. Tables and pictures that other commands left in the
work directory are shown too, and with --plan and --audit what was planned and whether it held; the
plan's secrets stay out. --notest_images leaves test images out, and needs no data set. In a browser
the page answers: limits as plan takes them show what they leave, what plan would choose and why,
and its command. --watch writes the page anew while the grid runs, and an open one follows.
"""

import datetime
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.reporting import (
    deciding,
    details,
    page,
    pictures,
    plots,
    promises,
    sections,
    tables,
    tradeoff_chart,
    watching,
)
from experiments.reporting.pictures import Picture
from experiments.reporting.watching import Stand
from privynet_jax import Config, Parts, ResultStore, UserError, read_plan
from privynet_jax.images.folders import is_private
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.files import check_is_new, checked_file, write_atomically
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.summaries import convergence_note, over_draws
from privynet_jax.results.work_directory import REFERENCES

cli.key_flags("workdir out plan data_dir skip_unreadable sixteen_bit_max dicom_window latency")
_AUDIT = flags.DEFINE_string("audit", None, "The file that experiments.audit --out wrote.")
_IMAGES = flags.DEFINE_boolean("test_images", True, "Show test images; needs the data set.")
_WATCH = flags.DEFINE_boolean(
    "watch",
    False,
    "Write the report anew whenever the running characterisation has new cells, until it is done.",
)


def main() -> None:
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    out = checked_file("out", cli.OUT.value or str(store.workdir / "report.html"))
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"--out={out} must end in .html; give such a file")
    mark = f"privynet_jax {sha256_of_json(config)}"
    _check_replaceable(out, _folder(out), mark)
    planned = {**_planned(), "mark": mark}  # before anything is drawn
    parts = None
    for stand in _stands(store, config):
        if _IMAGES.value and parts is None:
            parts = _parts(config)
        content = _contents(store, config, stand) | planned
        content |= _reconstructed(store, config, stand.results, parts) if parts else _NO_IMAGES
        _write(out, content, is_private(config["dataset"]))
        if not stand.finished:
            missing = (
                f"{stand.missing} cells are missing" if stand.missing else "All cells are there"
            )
            print(f"{missing}; the report is written anew as more comes.")
    if _IMAGES.value:
        told = "hand it only to those who may see them, or give --notest_images"
        print(f"It shows test images: {told}.")


def _stands(store: ResultStore, config: Mapping[str, Any]) -> Iterable[Stand]:
    if _WATCH.value:
        return watching.stands(store, config, watching.EVERY)
    return [Stand(store.grid_results(config), 0, finished=True)]


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}_pictures")


def _write(out: Path, content: Mapping[str, Any], of_folder: bool) -> None:
    """Writes the page and its pictures; only a report of the same characterisation is replaced."""
    folder, mark = _folder(out), content["mark"]
    html = page.rendered(content)
    private = bool(cli.PLAN.value or _AUDIT.value) or of_folder
    files = [content["tradeoff"], *itertools.chain(*content["heat_maps"].values())]
    files += [cell.sheet for cell in content["shown"] + content["folded"]]
    for picture in files:
        if os.path.lexists(path := folder / picture.name) and not _has(path, mark):
            raise UserError(f"{path} is of no report of this characterisation; move it away")
    _check_replaceable(out, folder, mark)  # something may have come there meanwhile
    # The page first: with it, the same command goes on after a kill.
    write_atomically(out, html, private=private)
    folder.mkdir(0o700 if private else 0o777, exist_ok=True)
    for picture in files:
        png = pictures.marked(picture.png, mark)
        write_atomically(folder / picture.name, png, private=private)
    size = f"{len(html) / 2**20:.1f} MiB, one file that needs nothing else"
    print(f"The report is in {out} ({size}); its {len(files)} pictures are in {folder} too.")


def _check_replaceable(out: Path, folder: Path, mark: str) -> None:
    """Only a report of the same characterisation is replaced, with its pictures."""
    if not os.path.lexists(out):
        check_is_new(folder)
    elif not _has(out, mark):
        told = "exists already, and is no report of this characterisation"
        raise UserError(f"{out} {told}; give another file as --out")
    elif os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is no folder, for the report's pictures; move it away")


def _has(path: Path, mark: str) -> bool:
    return path.is_file() and mark.encode() in path.read_bytes()


def _contents(store: ResultStore, config: Mapping[str, Any], stand: Stand) -> dict[str, Any]:
    # What may be damaged is read before anything is drawn.
    told, path = "Each attacker on each cell, over test images.", store.workdir / "attacks.csv"
    attacks = tables.of_csv(path, told) if stand.finished or path.exists() else None
    further = sections.further(store.workdir)
    references = None
    if stand.finished or (store.workdir / REFERENCES).exists():
        references = plots.references(store)
    results = stand.results
    summaries = over_draws(results)
    command = deciding.command(store.workdir, cli.LATENCY.value, is_private(config["dataset"]))
    ground = deciding.ground(store, config, results, cli.latencies(), command)
    chart = tradeoff_chart.specification(tradeoff_chart.rows(summaries), references)
    live = {"settings": details.settings(summaries), "chart": tradeoff_chart.answering(chart)}
    live["reload_seconds"] = 0 if stand.finished else watching.EVERY
    return {
        **{"ground": ground, "told": {**ground.told, **live}},
        **{"attackers": details.attackers(results), "setting_id": deciding.setting_id},
        **{"promises": promises, "sections": sections, "tables": tables},
        **{"store": store, "config": config, "results": results, "summaries": summaries},
        **{"references": references, "stand": stand, "watched_every": watching.EVERY},
        "best": sections.best_settings(results),
        "tradeoff": Picture("tradeoff.png", tradeoff_chart.png(chart), _tradeoff_alt(results)),
        "tradeoff_uri": tradeoff_chart.uri(chart),
        "heat_maps": {
            selection: pictures.heat_maps(summaries, selection)
            for selection in plots.marker_shapes(result.selection for result in results)
        },
        "everything": tables.everything(summaries),
        "further": [section for section in further if section["stem"] not in sections.OF_RISK],
        "of_risk": [section for section in further if section["stem"] in sections.OF_RISK],
        "attacks": attacks,
        "convergence": convergence_note(results),
        "worst_image": max(result.row()["psnr_db_max"] for result in results),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "time": f"{datetime.datetime.now(datetime.UTC):%H:%M} UTC",
    }


def _planned() -> dict[str, Any]:
    plan = read_plan(cli.needed_file(cli.PLAN)) if cli.PLAN.value else None
    audit, verdict = promises.audit_table(cli.needed_file(_AUDIT)) if _AUDIT.value else (None, None)
    return {"plan": plan, "audit_table": audit, "verdict": verdict}


_NO_IMAGES = {"counts": {}, "classes": None, "shown": [], "folded": []}


def _reconstructed(
    store: ResultStore, config: Mapping[str, Any], results: Sequence[CellResult], parts: Parts
) -> dict[str, Any]:
    """Of the draws of a setting the one that gives away most is shown, the others are folded."""
    rows = spread_over_classes(parts.test.labels, config["examples"])
    originals = parts.test.images[rows]
    shown, folded = [], []
    for summary in over_draws(results):
        worst, *others = sorted(summary.cells, key=lambda cell: -cell.strongest.psnr_db.mean)
        shown.append(pictures.reconstructions(worst, store, originals))
        folded += (pictures.reconstructions(cell, store, originals) for cell in others)
    counts = {name: len(part) for name, part in parts.items()}
    return {"counts": counts, "classes": parts.num_classes, "shown": shown, "folded": folded}


def _parts(config: Mapping[str, Any]) -> Parts:
    """The very images of the characterisation."""
    places = {"data_dir": cli.data_folder(), "skip_unreadable": cli.SKIP_UNREADABLE.value}
    try:
        told = Config.of_settings(config, Path(), **places).reading_as(cli.reading())
        parts = told.load_parts()
        if parts.fingerprint != config["data_fingerprint"]:
            raise UserError(
                f"{config['dataset']} holds other images now than were characterised; give "
                "--data_dir and --skip_unreadable as then"
            )
        return parts
    except UserError as error:
        raise UserError(f"{error}; or give --notest_images for a report without them") from None


def _tradeoff_alt(results: Sequence[CellResult]) -> str:
    accuracies = [100 * result.accuracy for result in results]
    losses = [result.strongest.psnr_db.mean for result in results]
    return (
        f"Accuracy against privacy loss of {len(results)} cells: accuracies from "
        f"{min(accuracies):.1f} to {max(accuracies):.1f} %, mean PSNR from {min(losses):.1f} to "
        f"{max(losses):.1f} dB. The table of all settings has the numbers."
    )


if __name__ == "__main__":
    cli.run(main)
