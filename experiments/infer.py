"""What leaks without a picture being rebuilt: attributes, identities and membership.

    python -m experiments.infer --workdir=runs/first --attributes=feature:scale,brightness
    python -m experiments.infer --topologies=4:16,7:16 --out=inference.csv

Attacks the first draw of every (layers, depth, selection) of a finished characterisation, with its
data and training lengths; or the topologies that --topologies names as layers:depth, with random
channels. Prints every number with a 95 % bootstrap interval over images, beside chance and, for
attributes, beside the same attack on the images themselves. Writes inference.csv: to the work
directory, or to --out.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import cli
from experiments.comparing.ground import Ground, reopened
from privynet_jax import Config, Parts, Protocol, Schedule, UserError, measure, session
from privynet_jax.attacks.inference.image_attributes import check_attributes
from privynet_jax.attacks.inference.suite import (
    ATTACKS,
    ATTRIBUTE,
    REIDENTIFICATION,
    Rebuilt,
    Settings,
    Suite,
)
from privynet_jax.attacks.registry import check_attackers
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import all_channels
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.files import checked_file, write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Cell, by_layer, check_values, grid_cells
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.training.models.attackers import STRONG

cli.key_flags("workdir out weights cache_dir data_dir seed max_images skip_unreadable attackers")
_INFERENCES = flags.DEFINE_list("inferences", list(ATTACKS), f"Which of {', '.join(ATTACKS)}.")
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", [], "Without --workdir: layers:depth, such as 4:16; channels are drawn by --seed."
)
_PICTURES = flags.DEFINE_string(
    "pictures", "photo_patches", "Without --workdir: photo_patches, folder:PATH or TFDS name."
)
_ATTRIBUTES = flags.DEFINE_list(
    "attributes",
    ["brightness", "colour"],
    "What to infer: brightness, contrast, colour, class, or feature:NAME of a TFDS data set.",
)
_CANDIDATES = flags.DEFINE_list(
    "candidates",
    None,
    "Numbers of pictures among which one is to be found; default: 100, or all test images.",
)
_QUERIES = flags.DEFINE_integer("queries", 500, "Test images that are to be re-identified.", 1)
_SHADOWS = flags.DEFINE_integer("shadows", 8, "Shadow networks per kind of LiRA; even.", 2)
_NETWORK_STEPS = flags.DEFINE_integer(
    "network_steps", None, "Of every cloud NN, classifier and shadow; default: as characterised.", 1
)
_REBUILDING_STEPS = flags.DEFINE_integer(
    "rebuilding_steps", None, "Of each of --attackers, whose best is looked up; likewise.", 1
)
_USUAL_CANDIDATES = 100
Row = Mapping[str, Any]
# The quickstart's, of which --topologies are characterised.
_QUICK = {
    "cloud": Schedule(steps=300),
    "attacker": Schedule(steps=300, batch_size=16, learning_rate=None),
    "attacker_blocks": 2,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is attacked, and how its topologies were characterised."""

    parts: Parts
    weights: PretrainedWeights
    cells: tuple[Cell, ...]
    config: Config


def main() -> None:
    chosen, candidates = _checked_attacks()
    out = _out()
    cli.use_cpu_cores(at_most=_SHADOWS.value)
    run = _of_workdir() if cli.WORKDIR.value else _of_flags()
    # Before features are extracted: an attribute may be unknown, or the same for all images.
    suite = _suite(run, _suite_settings(run, chosen, candidates))
    layers = sorted({cell.topology.num_layers for cell in run.cells})
    union = all_channels(layers, run.weights.backbone)
    features = load_features(run.weights, run.parts, union, cli.cache_folder())
    rows = _attacked(run, Ground(run.parts, run.weights, features), suite, chosen)
    write_atomically(out, as_csv(rows))
    print(as_text(rows))
    print(
        "Intervals are 95 % bootstrap ones over images. References are the same attack on the "
        f"images themselves. The table is in {out}."
    )


def _attacked(run: Run, ground: Ground, suite: Suite, chosen: Sequence[str]) -> list[Row]:
    queries = spread_over_classes(run.parts.test.labels, _QUERIES.value)
    protocol = dataclasses.replace(protocol_of(run.config, run.parts, queries), cloud=None)
    attackers = len(protocol.attacks) if REIDENTIFICATION in chosen else 0
    per_cell = sum(suite.networks(name) for name in chosen) + attackers
    shared = suite.networks(ATTRIBUTE) if ATTRIBUTE in chosen else 0
    total, rows = shared + per_cell * len(run.cells), []
    with progress_bar(total, "attacking", "networks") as advance, session(progress=advance):
        rebuilt = {}
        if attackers:
            # `measure` tells of cells.
            with session(progress=lambda cells: advance(cells * attackers)):
                rebuilt = _reconstructions(run, ground, protocol)
        for cell in run.cells:
            scene, topology = ground.scene(cell.topology), cell.topology
            identity = {
                "num_layers": topology.num_layers,
                "layer": topology.layer.name,
                "depth": topology.depth,
                "selection": cell.selection,
                "draw": cell.draw,
            }
            for name in chosen:
                more = (rebuilt[cell], queries) if name == REIDENTIFICATION else ()
                rows += [identity | row for row in getattr(suite, name)(scene, *more)]
    return rows


def _reconstructions(run: Run, ground: Ground, protocol: Protocol) -> dict[Cell, Rebuilt]:
    """Cell -> the examples, rebuilt as in the grid, by who is strongest on validation images."""
    width = max(cell.topology.depth for cell in run.cells)
    found = {}
    for _, cells in by_layer(run.cells):
        scenes = [ground.scene(cell.topology, width) for cell in cells]
        measured = measure(cells, scenes, protocol, run.config.seed)
        found |= zip(cells, map(_strongest, measured), strict=True)
    return found


def _strongest(measurement: Measurement) -> Rebuilt:
    quality = {
        name: attack["validation"]["psnr_db"].mean() for name, attack in measurement.attacks.items()
    }
    name = max(quality, key=quality.__getitem__)
    return Rebuilt(measurement.examples[name], name, measurement.reports[name]["knowledge"])


def _suite(run: Run, settings: Settings) -> Suite:
    key = jax.random.fold_in(jax.random.key(run.config.seed), len(ATTACKS))
    return Suite(run.parts, settings, cli.data_folder(), key)


def _of_workdir() -> Run:
    """The first draws of a finished characterisation."""
    if _TOPOLOGIES.value or cli.MAX_IMAGES.value:
        raise UserError(
            "--workdir brings its own topologies and images; leave out --topologies and "
            "--max_images"
        )
    found = reopened()
    cells = tuple(Cell(r.topology, r.draw, r.selection) for r in found.results if r.draw == 0)
    config = _with_flags(Config.of_settings(found.settings, found.store.workdir))
    return Run(found.parts, found.weights, cells, config)


def _of_flags() -> Run:
    cells = []
    for text in _TOPOLOGIES.value:
        layers, _, depth = text.partition(":")
        if not (layers.isdecimal() and depth.isdecimal()):
            raise UserError(f"--topologies names {text!r}; expected layers:depth, as in 4:16,7:16")
        cells += grid_cells((int(layers),), (int(depth),), 1, cli.SEED.value)
    if not cells:
        raise UserError("neither --workdir nor --topologies is given; one of them is needed")
    check_values("--topologies", [cell.name for cell in cells])
    parts = cli.load_data(_PICTURES.value)
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cli.cache_folder())
    config = _with_flags(Config(Path(), seed=cli.SEED.value, **_QUICK))
    return Run(parts, weights, tuple(cells), config)


def _with_flags(config: Config) -> Config:
    """Returns a characterisation's settings, with what flags give instead."""
    given = {"cloud": _NETWORK_STEPS.value, "attacker": _REBUILDING_STEPS.value}
    schedules = {
        name: dataclasses.replace(getattr(config, name), steps=steps)
        for name, steps in given.items()
        if steps
    }
    # A characterisation in mode linear trained none.
    attackers = tuple(cli.ATTACKERS.value or config.chosen_attackers or (STRONG,))
    return dataclasses.replace(config, attackers=attackers, **schedules)


def _suite_settings(
    run: Run, chosen: Sequence[str], candidates: tuple[int, ...] | None
) -> Settings:
    """Returns what flags say; of attacks that are not chosen, the usual settings."""
    settings = Settings(run.config.cloud, run.config.cloud_width, (), shadows=_SHADOWS.value)
    if ATTRIBUTE in chosen:
        settings = dataclasses.replace(settings, attributes=tuple(_ATTRIBUTES.value))
    if REIDENTIFICATION not in chosen:
        return settings
    most = len(run.parts.test)
    candidates = (min(_USUAL_CANDIDATES, most),) if candidates is None else candidates
    if not candidates or not all(2 <= count <= most for count in candidates):
        told = ",".join(map(str, candidates))
        raise UserError(
            f"--candidates={told}; allowed are whole numbers from 2 to {most}, the test images "
            "there are"
        )
    check_values("--candidates", candidates)
    return dataclasses.replace(settings, candidates=candidates)


def _checked_attacks() -> tuple[list[str], tuple[int, ...] | None]:
    """The attacks that are chosen, and numbers of candidates, if any are given."""
    unknown = [name for name in _INFERENCES.value if name not in ATTACKS]
    if unknown or not _INFERENCES.value:
        raise UserError(
            f"--inferences={','.join(_INFERENCES.value)}; allowed are {', '.join(ATTACKS)}"
        )
    if _SHADOWS.value % 2:
        raise UserError(f"--shadows={_SHADOWS.value}; allowed are even numbers from 2")
    chosen = [name for name in ATTACKS if name in _INFERENCES.value]
    if cli.ATTACKERS.value:
        check_attackers(cli.ATTACKERS.value)
    if ATTRIBUTE in chosen:
        check_attributes(_ATTRIBUTES.value)
    given = REIDENTIFICATION in chosen and _CANDIDATES.value is not None
    return chosen, cli.whole_numbers(_CANDIDATES) if given else None


def _out() -> Path:
    """Where the table goes, refused before anything is trained for it."""
    if _TOPOLOGIES.value and not (cli.OUT.value or cli.WORKDIR.value):
        raise UserError("--topologies is given without --out; give --out=FILE as well")
    if not cli.OUT.value:
        return cli.needed_folder(cli.WORKDIR) / "inference.csv"
    return checked_file("out", cli.OUT.value)


def as_text(rows: Sequence[Row]) -> str:
    """Returns the rows for people to read."""
    return aligned(
        [
            {
                "layers": f"{row['num_layers']} {row['layer']}",
                "depth": row["depth"],
                **{name: row[name] for name in ("attack", "variant", "number")},
                "value (95 %)": "{} ({}-{})".format(
                    *(_short(row[name]) for name in ("value", "low", "high"))
                ),
                "chance": _short(row["chance"]),
                "reference": _short(row["reference"]),
            }
            for row in rows
        ]
    )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    cli.run(main, continues=False)
