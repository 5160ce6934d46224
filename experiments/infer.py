"""What leaks without a picture being rebuilt: attributes, identities and membership.

    python -m experiments.infer --workdir=runs/first --attributes=feature:scale,brightness

Attacks the first draw of every (layers, depth, selection) of a finished characterisation, with its
data and training lengths; but the cloud NN whose members are told, and its shadows, are trained as
`train_cloud` trains. Prints every number with a 95 % bootstrap interval over the images' sources,
such as photographs (for membership over groups that overlap, half of which a coin makes members),
beside chance and, for attributes and sources, beside the same attack on the images themselves.
Writes inference.csv: to the work directory, or to --out.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from experiments import cli
from experiments.comparing.ground import Ground, reopened
from privynet_jax import Config, UserError, session
from privynet_jax.attacks.inference import suite as inference
from privynet_jax.attacks.inference.attributes import check_attributes
from privynet_jax.attacks.inference.suite import (
    ATTACKS,
    ATTRIBUTE,
    MEMBERSHIP,
    REIDENTIFICATION,
    Rebuilt,
)
from privynet_jax.attacks.registry import check_attackers
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import all_channels
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.images.folders import is_private
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.platform.files import write_atomically, written_new
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell, Measurement, check_values
from privynet_jax.results.text_tables import aligned, as_csv, bracketed
from privynet_jax.training.courses.release_training import ReleaseTraining
from privynet_jax.training.models.attackers import STRONG

cli.key_flags("workdir out weights cache_dir data_dir skip_unreadable sixteen_bit_max attackers")
cli.key_flags("dicom_window")
_INFERENCES = flags.DEFINE_list("inferences", list(ATTACKS), f"Which of {', '.join(ATTACKS)}.")
_TOLD = (
    "What to infer: brightness, contrast, colour, class, classes:0+2/1 (groups of classes), or "
    "feature:NAME of a TFDS data set."
)
_ATTRIBUTES = flags.DEFINE_list("attributes", list(inference.Settings.attributes), _TOLD)
_CANDIDATES = flags.DEFINE_list(
    "candidates", None, "Numbers of pictures to find one among; default: 100, or all test images."
)
_QUERIES = flags.DEFINE_integer("queries", 500, "Test images that are rebuilt, to be told by.", 1)
_SHADOWS = flags.DEFINE_integer("shadows", 8, "Shadow networks, online and offline each; even.", 2)
_NETWORK_STEPS = flags.DEFINE_integer(
    "network_steps",
    None,
    "Of every classifier, cloud NN and shadow; default: classifiers' as characterised, the others' "
    "as train_cloud's.",
    1,
)
_REBUILDING_STEPS = flags.DEFINE_integer(
    "rebuilding_steps",
    None,
    "Of each of --attackers, whose best rebuilds; default: as characterised.",
    1,
)
_USUAL_CANDIDATES = 100
Row = Mapping[str, Any]


def main() -> None:
    chosen, candidates = _checked_attacks()
    workdir = cli.needed_folder(cli.WORKDIR)
    out = cli.new_file(cli.OUT) if cli.OUT.value else workdir / "inference.csv"
    cli.use_cpu_cores(at_most=_SHADOWS.value)
    found = reopened()
    config = _with_flags(found.config)
    if config.of_devices != Plain():
        raise UserError(
            f"{workdir} was characterised with the mechanism {config.of_devices}, under which "
            "nothing is inferred here; give the --workdir of a characterisation without one"
        )
    settings = _suite_settings(config, chosen, candidates, len(found.parts.test))
    # Before features are extracted: an attribute may be unknown, or the same for all images.
    key = jax.random.fold_in(jax.random.key(config.seed), len(ATTACKS))
    suite = inference.Suite(found.parts, settings, cli.data_folder(), key)
    results = [result for result in found.results if result.draw == 0]
    layers = sorted({result.num_layers for result in results})
    union = all_channels(layers, found.weights.backbone)
    features = load_features(found.weights, found.parts, union, cli.cache_folder())
    ground = Ground(found.parts, found.weights, features)
    rows = _attacked(results, ground, config, suite, chosen)
    private = is_private(config.dataset)
    if cli.OUT.value:
        write = functools.partial(write_atomically, data=as_csv(rows), private=private)
        where = written_new(out, write)
    else:
        write_atomically(out, as_csv(rows), private=private)
        where = str(out)
    print(as_text(rows))
    print(
        "Intervals are 95 % bootstrap ones over the images' sources, for membership over groups of "
        "images that overlap. References are the same attack on the images themselves. "
        f"The table is in {where}."
    )


def _attacked(
    results: Sequence[CellResult],
    ground: Ground,
    config: Config,
    suite: inference.Suite,
    chosen: Sequence[str],
) -> list[Row]:
    cells = [Cell(result.topology, result.draw, result.selection) for result in results]
    queries = spread_over_classes(ground.parts.test.labels, _QUERIES.value)
    protocol = dataclasses.replace(protocol_of(config, ground.parts, queries), cloud=None)
    attackers = len(protocol.attacks) if set(chosen) - {MEMBERSHIP} else 0
    per_cell = sum(suite.networks(name) for name in chosen) + attackers
    shared = suite.networks(ATTRIBUTE) if ATTRIBUTE in chosen else 0
    total, rows = shared + per_cell * len(cells), []
    with progress_bar(total, "attacking", "networks") as advance, session(progress=advance):
        rebuilt = {}
        if attackers:
            # `measure` tells of cells.
            with session(progress=lambda done: advance(done * attackers)):
                measured = ground.measured(cells, protocol, config.seed)
                rebuilt = {cell: _strongest(measurement) for cell, measurement in measured}
        for cell, result in zip(cells, results, strict=True):
            scene, identity = ground.scene(cell.topology), result.identity()
            del identity["channels"]
            for name in chosen:
                more = () if name == MEMBERSHIP else (rebuilt[cell], queries)
                rows += [identity | row for row in getattr(suite, name)(scene, *more)]
    return rows


def _strongest(measurement: Measurement) -> Rebuilt:
    """The examples, rebuilt as in the grid, by who does best on validation images."""
    quality = {
        name: attack["validation"]["psnr_db"].mean() for name, attack in measurement.attacks.items()
    }
    name = max(quality, key=quality.__getitem__)
    return Rebuilt(measurement.examples[name], name, measurement.reports[name]["knowledge"])


def _with_flags(config: Config) -> Config:
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
    config: Config, chosen: Sequence[str], candidates: tuple[int, ...] | None, most: int
) -> inference.Settings:
    attributes = tuple(_ATTRIBUTES.value) if ATTRIBUTE in chosen else ()
    schedule = ReleaseTraining().schedule
    steps = _NETWORK_STEPS.value or schedule.steps
    training = ReleaseTraining(dataclasses.replace(schedule, steps=steps))
    networks = config.cloud, config.cloud_width
    more = {"shadows": _SHADOWS.value, "training": training}
    settings = inference.Settings(*networks, attributes, **more)
    if REIDENTIFICATION not in chosen:
        return settings
    if most < 2:
        raise UserError(f"{most} test images; telling one from others takes 2 or more; give more")
    candidates = (min(_USUAL_CANDIDATES, most),) if candidates is None else candidates
    if not candidates or not all(2 <= count <= most for count in candidates):
        told = ",".join(map(str, candidates))
        allowed = f"whole numbers from 2 to {most}, the test images there are"
        raise UserError(f"--candidates={told}; allowed are {allowed}")
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


def as_text(rows: Sequence[Row]) -> str:
    """Returns the rows for people to read."""
    shown = []
    for row in rows:
        short = {name: v if isinstance(v, str) else f"{v:.4g}" for name, v in row.items()}
        shown.append(
            {
                "layers": f"{row['num_layers']} {row['layer']}",
                **{name: row[name] for name in ("depth", "attack", "variant", "number")},
                "value (95 %)": bracketed(*(short[name] for name in ("value", "low", "high"))),
                **{name: short[name] for name in ("chance", "reference")},
            }
        )
    return aligned(shown)


if __name__ == "__main__":
    cli.run(main)
