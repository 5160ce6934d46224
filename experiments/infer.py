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
from privynet_jax.attacks.scenario import Scenario, make_scenario
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import all_channels
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.characterisation.reopening import reopen
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.files import checked_file, write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Cell, by_layer, grid_cells
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.text_tables import aligned, as_csv
from privynet_jax.training.models.attackers import STRONG
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

for _shared in (
    *("workdir", "out", "weights", "cache_dir", "data_dir", "seed"),
    *("max_images", "skip_unreadable", "attackers"),
):
    flags.declare_key_flag(_shared)
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
    seed: int


def main() -> None:
    chosen = _checked_attacks()
    candidates = None
    if REIDENTIFICATION in chosen and _CANDIDATES.value is not None:
        candidates = cli.whole_numbers(_CANDIDATES)
    out = _out()
    cli.use_cpu_cores(at_most=_SHADOWS.value)
    run = _of_workdir() if cli.WORKDIR.value else _of_flags()
    settings = _suite_settings(run)
    if REIDENTIFICATION in chosen:
        checked = _checked_candidates(candidates, len(run.parts.test))
        settings = dataclasses.replace(settings, candidates=checked)
    layers = sorted({cell.topology.num_layers for cell in run.cells})
    # Before features are extracted: an attribute may be unknown, or the same for all images.
    suite = _suite(run, settings, chosen)
    features = load_features(
        run.weights, run.parts, all_channels(layers, run.weights.backbone), cli.cache_folder()
    )
    scenes = {
        cell: make_scenario(
            run.weights,
            run.parts,
            cell.topology,
            cli.cache_folder(),
            features=features[cell.topology.num_layers],
        )
        for cell in run.cells
    }
    rows = _attacked(run, scenes, suite, chosen)
    write_atomically(out, as_csv(rows))
    print(as_text(rows))
    print(
        "Intervals are 95 % bootstrap ones over images. References are the same attack on the "
        f"images themselves. The table is in {out}."
    )


def _attacked(
    run: Run, scenes: Mapping[Cell, Scenario], suite: Suite, chosen: Sequence[str]
) -> list[dict[str, Any]]:
    queries = spread_over_classes(run.parts.test.labels, _QUERIES.value)
    protocol = dataclasses.replace(protocol_of(run.config, run.parts, queries), cloud=None)
    per_scene = sum(suite.networks(name) for name in chosen)
    shared = suite.networks(ATTRIBUTE) if ATTRIBUTE in chosen else 0
    if REIDENTIFICATION in chosen:
        per_scene += len(protocol.attacks)
    total = shared + per_scene * len(scenes)
    with progress_bar(total, "attacking", "networks") as advance, session(progress=advance):
        rebuilt = {}
        if REIDENTIFICATION in chosen:
            # `measure` tells of cells.
            with session(progress=lambda cells: advance(cells * len(protocol.attacks))):
                rebuilt = reconstructions(scenes, protocol, run.seed)
        rows = []
        for cell, scene in scenes.items():
            found = []
            for name in chosen:
                if name == REIDENTIFICATION:
                    found += suite.reidentification(scene, rebuilt[cell], queries)
                else:
                    found += getattr(suite, name)(scene)
            identity = {
                "num_layers": cell.topology.num_layers,
                "layer": cell.topology.layer.name,
                "depth": cell.topology.depth,
                "selection": cell.selection,
                "draw": cell.draw,
            }
            rows += [identity | row for row in found]
    return rows


def reconstructions(
    scenes: Mapping[Cell, Scenario], protocol: Protocol, seed: int
) -> dict[Cell, Rebuilt]:
    """Attacks topologies as the grid does.

    Args:
        scenes: topologies; those of a layer are attacked side by side.
        protocol: whose examples are kept.
        seed: of all that is random.

    Returns:
        Cell -> estimates of the examples, by the attacker who is strongest on validation images.

    Raises:
        UserError: training diverged.
    """
    width = max(cell.topology.depth for cell in scenes)
    found = {}
    for _, cells in by_layer(scenes):
        of_layer = [dataclasses.replace(scenes[cell], width=width) for cell in cells]
        for measurement in measure(cells, of_layer, protocol, seed):
            found[measurement.cell] = _strongest(measurement)
    return found


def _strongest(measurement: Measurement) -> Rebuilt:
    quality = {
        name: attack["validation"]["psnr_db"].mean() for name, attack in measurement.attacks.items()
    }
    name = max(quality, key=quality.__getitem__)
    return Rebuilt(measurement.examples[name], name, measurement.reports[name]["knowledge"])


def _suite(run: Run, settings: Settings, chosen: Sequence[str]) -> Suite:
    key = jax.random.fold_in(jax.random.key(run.seed), len(ATTACKS))
    used = settings if ATTRIBUTE in chosen else dataclasses.replace(settings, attributes=())
    return Suite(run.parts, used, cli.data_folder(), key)


def _of_workdir() -> Run:
    """The first draws of a finished characterisation."""
    if _TOPOLOGIES.value or cli.MAX_IMAGES.value:
        raise UserError(
            "--workdir brings its own topologies and images; leave out --topologies and "
            "--max_images"
        )
    found = reopen(
        cli.needed_folder(cli.WORKDIR),
        weights=cli.WEIGHTS.value or "embedded",
        cache_dir=cli.cache_folder(),
        data_dir=cli.data_folder(),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    cells = tuple(Cell(r.topology, r.draw, r.selection) for r in found.results if r.draw == 0)
    config = _with_flags(Config.of_settings(found.settings, found.store.workdir))
    return Run(found.parts, found.weights, cells, config, config.seed)


def _of_flags() -> Run:
    cells = []
    for text in _TOPOLOGIES.value:
        layers, _, depth = text.partition(":")
        if not (layers.isdecimal() and depth.isdecimal()):
            raise UserError(f"--topologies names {text!r}; expected layers:depth, as in 4:16,7:16")
        cells += grid_cells((int(layers),), (int(depth),), 1, cli.SEED.value)
    if not cells:
        raise UserError("neither --workdir nor --topologies is given; one of them is needed")
    if len(set(cells)) < len(cells):
        raise UserError("--topologies names one twice; give each once")
    parts = cli.load_data(_PICTURES.value)
    weights = load_weights(
        cli.WEIGHTS.value or "embedded", cache_dir=cli.folder("cache_dir", cli.CACHE_DIR.value)
    )
    return Run(parts, weights, tuple(cells), _with_flags(Config(Path(), **_QUICK)), cli.SEED.value)


def _with_flags(config: Config) -> Config:
    """Returns a characterisation's settings, with what flags give instead."""
    cloud, trained = (
        schedule if steps is None else dataclasses.replace(schedule, steps=steps)
        for schedule, steps in (
            (config.cloud, _NETWORK_STEPS.value),
            (config.attacker, _REBUILDING_STEPS.value),
        )
    )
    # A characterisation in mode linear trained none.
    attackers = tuple(cli.ATTACKERS.value or config.chosen_attackers or (STRONG,))
    return dataclasses.replace(config, cloud=cloud, attacker=trained, attackers=attackers)


def _checked_candidates(given: tuple[int, ...] | None, most: int) -> tuple[int, ...]:
    """Returns the numbers of candidates, the usual one where none is given."""
    candidates = (min(_USUAL_CANDIDATES, most),) if given is None else given
    told = ",".join(map(str, candidates))
    if most < 2:
        raise UserError(f"{most} test images; telling one from others takes 2 or more; give more")
    if not candidates or not all(2 <= count <= most for count in candidates):
        raise UserError(
            f"--candidates={told}; allowed are whole numbers from 2 to {most}, the test images "
            "there are"
        )
    if len(set(candidates)) < len(candidates):
        raise UserError(f"--candidates={told}; allowed is each number once")
    return candidates


def _suite_settings(run: Run) -> Settings:
    return Settings(
        cloud=run.config.cloud,
        width=run.config.cloud_width,
        attributes=tuple(_ATTRIBUTES.value),
        shadows=_SHADOWS.value,
    )


def _checked_attacks() -> list[str]:
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
    return chosen


def _out() -> Path:
    """Where the table goes, refused before anything is trained for it."""
    if _TOPOLOGIES.value and not (cli.OUT.value or cli.WORKDIR.value):
        raise UserError("--topologies is given without --out; give --out=FILE as well")
    if not cli.OUT.value:
        return cli.needed_folder(cli.WORKDIR) / "inference.csv"
    return checked_file("out", cli.OUT.value)


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
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
